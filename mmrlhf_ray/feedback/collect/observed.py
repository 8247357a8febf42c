"""From the log of a deployed model in the database to records."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from sqlalchemy import select
from sqlalchemy.orm import Session

from mmrlhf_ray.config import FeedbackConfig, ImplicitConfig
from mmrlhf_ray.errors import DataError
from mmrlhf_ray.feedback.collect.export import media_rows, prompt_row
from mmrlhf_ray.feedback.collect.tables import Event, LoggedResponse
from mmrlhf_ray.feedback.labels.derive import derive_preferences
from mmrlhf_ray.feedback.labels.files import write_shown
from mmrlhf_ray.feedback.labels.implicit import (
    ImplicitEvent,
    ObservedResponse,
    implicit_corrections,
    implicit_demonstrations,
)
from mmrlhf_ray.schema import MEDIA, PROMPT


@dataclass(frozen=True)
class Observed:
    """Everything that was logged."""

    responses: list[ObservedResponse]
    events: list[ImplicitEvent]
    prompts: pa.Table
    """PROMPT."""


def read_observed(session: Session) -> Observed:
    """In the order in which it was logged."""
    responses: list[ObservedResponse] = []
    prompts: dict[str, dict[str, Any]] = {}
    for row in session.scalars(select(LoggedResponse).order_by(LoggedResponse.created, LoggedResponse.id)):
        responses.append(ObservedResponse(row.id, row.prompt_id, row.text))
        prompts.setdefault(row.prompt_id, prompt_row(row))
    events = [
        ImplicitEvent(event.id, event.response_id, event.kind, event.value, event.created.isoformat())
        for event in session.scalars(select(Event).order_by(Event.created, Event.id))
    ]
    return Observed(responses, events, pa.Table.from_pylist(list(prompts.values()), schema=PROMPT))


def write_implicit(session: Session, config: FeedbackConfig, kind: str, out: Path) -> int:
    """Write a directory that `data.path` reads; returns the number of records.

    `kind`: `demonstration` = every response about which events say something, with fractional feedback; `preference`
    = edited responses, the edit over the original. Raises DataError for another kind, and where there are none.
    """
    if kind not in _RECORDS:
        raise DataError(f"kind {kind!r} is unknown; expected one of {', '.join(_RECORDS)}")
    observed = read_observed(session)
    records = _RECORDS[kind](observed, config.implicit)
    if not records.num_rows:
        raise DataError(
            f"no {kind} comes of {len(observed.events)} events about {len(observed.responses)} responses; see the "
            "table of events in docs/feedback.md"
        )
    write_shown(out, records, pa.Table.from_pylist(list(media_rows(session, config)), schema=MEDIA))
    return records.num_rows


def _demonstrations(observed: Observed, weights: ImplicitConfig) -> pa.Table:
    return implicit_demonstrations(observed.responses, observed.events, observed.prompts, weights)


def _preferences(observed: Observed, weights: ImplicitConfig) -> pa.Table:
    return derive_preferences(implicit_corrections(observed.responses, observed.events), observed.prompts)


_RECORDS: Mapping[str, Callable[[Observed, ImplicitConfig], pa.Table]] = {
    "demonstration": _demonstrations,
    "preference": _preferences,
}
