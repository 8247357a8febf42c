"""Reports from applications of a deployed model: its responses, and what people did with them."""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from mmrlhf_ray.config import FeedbackConfig
from mmrlhf_ray.data.errors import RowError
from mmrlhf_ray.feedback.collect.items import prompt_record
from mmrlhf_ray.feedback.collect.tables import Event, LoggedResponse
from mmrlhf_ray.feedback.errors import Conflict, Invalid, Unknown
from mmrlhf_ray.feedback.labels.implicit import EVENT_KINDS

_WEEK_S = 7 * 86_400


def log_response(
    session: Session, response_id: str, text: str, source: str, prompt: Mapping[str, Any], config: FeedbackConfig,
    now: datetime,
) -> bool:  # fmt: skip
    """Store a response; False if it is there already. Raises Invalid, and Conflict for an id with another text."""
    if not text or len(text) > config.max_text_chars:
        raise Invalid(f"expected 1 to {config.max_text_chars} characters, got {len(text)}", "text")
    known = session.get(LoggedResponse, response_id)
    if known is not None:
        if known.text != text:
            raise Conflict("this response_id stands for another response; make an id for each", "response_id")
        return False
    try:
        record = prompt_record(session, prompt)
    except RowError as error:
        raise Invalid(str(error), "prompt") from error
    session.add(
        LoggedResponse(
            id=response_id,
            prompt_id=record["prompt_id"],
            messages=json.loads(record["messages"]),
            media_ids=record["media_ids"],
            task=record["task"],
            modality=record["modality"],
            extras=json.loads(record["extras"]),
            text=text,
            source=source,
            created=now,
        )
    )
    return True


def log_event(
    session: Session, event_id: str, response_id: str, kind: str, value: Mapping[str, Any], config: FeedbackConfig,
    now: datetime,
) -> bool:  # fmt: skip
    """Store an event; False if it is there already. Raises Invalid, and Unknown for a response that nobody reported."""
    if kind not in EVENT_KINDS:
        raise Invalid(f"expected one of {', '.join(EVENT_KINDS)}, got {kind[:40]!r}", "kind")
    checked = _value(kind, value, config)
    known = session.get(Event, event_id)
    if known is not None:
        if (known.response_id, known.kind, known.value) != (response_id, kind, checked):
            raise Conflict("this event_id stands for another event; make an id for each", "event_id")
        return False
    if session.scalar(select(LoggedResponse.id).where(LoggedResponse.id == response_id)) is None:
        raise Unknown("no such response was reported; POST /api/responses first", "response_id")
    session.add(Event(id=event_id, response_id=response_id, kind=kind, value=checked, created=now))
    return True


def _value(kind: str, value: Mapping[str, Any], config: FeedbackConfig) -> dict[str, Any]:
    """{"text"} of an edit, {"seconds"} of dwelling, else {}."""
    needed = {"edit": {"text"}, "dwell": {"seconds"}}.get(kind, set())
    if set(value) != needed:
        raise Invalid(f"{kind} takes {sorted(needed) or 'no value'}, got {sorted(value)}", "value")
    text, seconds = value.get("text", ""), value.get("seconds", 0)
    if not isinstance(text, str) or len(text) > config.max_text_chars:
        raise Invalid(f"expected text of at most {config.max_text_chars} characters", "value.text")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= _WEEK_S:
        raise Invalid(f"expected a number from 0 to {_WEEK_S}", "value.seconds")
    return dict(value)
