"""Votes by project, kind of question and person, day by day."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from mmrlhf_ray.config import FeedbackConfig
from mmrlhf_ray.feedback.collect.tables import Item, Vote

DAYS = 14


@dataclass(frozen=True)
class Tally:
    """Of one project, kind or person; votes that were taken back do not count."""

    name: str
    """Name of the project, the kind, or annotator_id."""
    votes: int
    """Votes in force, those on gold questions included; also in `days` and `pace`."""
    pace: int
    """In the last `pace_window_s` (an hour)."""
    days: tuple[int, ...]
    """In each of the last DAYS days (UTC), today last."""
    cast: int = 0
    """Votes that items without a known answer have, and `wanted`, which they want; of projects and kinds."""
    wanted: int = 0


def tallies(
    session: Session, config: FeedbackConfig, now: datetime, projects: Sequence[str]
) -> Mapping[str, list[Tally]]:
    """project, kind and person → their tallies in these projects, most votes first; projects and kinds that have items
    but no vote are there as well."""
    made = {
        "project": _tallies(session, Item.project, config, now, projects, Item.project),
        "kind": _tallies(session, Vote.question, config, now, projects, Item.question),
        "person": _tallies(session, Vote.annotator_id, config, now, projects, None),
    }
    return {by: sorted(found, key=lambda tally: (-tally.votes, tally.name)) for by, found in made.items()}


def _tallies(
    session: Session,
    key: InstrumentedAttribute[str],
    config: FeedbackConfig,
    now: datetime,
    projects: Sequence[str],
    of_items: InstrumentedAttribute[str] | None,
) -> list[Tally]:
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    starts = [today - timedelta(days=DAYS - 1 - day) for day in range(DAYS)]
    since: ColumnElement[bool] = Vote.created > now - timedelta(seconds=config.pace_window_s)
    days = [(Vote.created >= start) & (Vote.created < start + timedelta(days=1)) for start in starts]
    counts = [func.count(), *(func.count().filter(condition) for condition in (since, *days))]
    here = Item.project.in_(projects)
    votes = select(key, *counts).select_from(Vote).join(Item, Item.id == Vote.item_id).where(~Vote.undone, here)
    voted = {row[0]: tuple(row[1:]) for row in session.execute(votes.group_by(key))}
    needed: dict[str, tuple[int, int]] = {}
    if of_items is not None:
        items = select(of_items, func.sum(Item.votes), func.sum(Item.overlap)).where(Item.gold.is_(None), here)
        needed = {row[0]: (int(row[1]), int(row[2])) for row in session.execute(items.group_by(of_items))}
    found = []
    for name in {*voted, *needed}:
        count, pace, *by_day = voted.get(name, (0,) * (2 + DAYS))
        cast, wanted = needed.get(name, (0, 0))
        found.append(Tally(name, count, pace, tuple(by_day), cast, wanted))
    return found
