"""How far the collection is, and how fast."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import median

from sqlalchemy import func, select, true
from sqlalchemy.orm import Session

from mmrlhf_ray.config import FeedbackConfig
from mmrlhf_ray.feedback.collect.tables import Item, Skip, Vote

_RECENT = 200


@dataclass(frozen=True)
class CollectionProgress:
    """Gold questions are left out of items, done, wanted and cast."""

    items: int
    done: int
    """Items that have all the votes they need."""
    wanted: int
    """Votes that all items need."""
    cast: int
    """Votes they have."""
    pace: int
    """Votes of everybody in the last `pace_window_s` (an hour)."""
    mine: int
    """Votes of this annotator, gold questions included; also below."""
    my_pace: int
    my_skips: int
    median_seconds: Mapping[str, float]
    """By kind of question, over this annotator's last votes."""


def progress(
    session: Session,
    annotator_id: str,
    config: FeedbackConfig,
    now: datetime,
    projects: Sequence[str] | None = None,
) -> CollectionProgress:
    """Progress of the collection and of one annotator; `projects`: only in these."""
    here = true() if projects is None else Item.project.in_(projects)
    done = Item.votes >= Item.overlap
    items, finished, wanted, cast = session.execute(
        select(func.count(), func.count().filter(done), func.sum(Item.overlap), func.sum(Item.votes))
        .select_from(Item)
        .where(Item.gold.is_(None), here)
    ).one()
    since = now - timedelta(seconds=config.pace_window_s)
    counted = select(func.count()).select_from(Vote).where(~Vote.undone)
    if projects is not None:
        counted = counted.join(Item, Item.id == Vote.item_id).where(here)
    mine = counted.where(Vote.annotator_id == annotator_id)
    return CollectionProgress(
        items=items,
        done=finished,
        wanted=int(wanted or 0),
        cast=int(cast or 0),
        pace=session.scalar(counted.where(Vote.created > since)) or 0,
        mine=session.scalar(mine) or 0,
        my_pace=session.scalar(mine.where(Vote.created > since)) or 0,
        my_skips=session.scalar(select(func.count()).where(Skip.annotator_id == annotator_id)) or 0,
        median_seconds=_median_seconds(session, annotator_id),
    )


def _median_seconds(session: Session, annotator_id: str) -> Mapping[str, float]:
    recent = session.execute(
        select(Vote.question, Vote.milliseconds)
        .where(Vote.annotator_id == annotator_id, ~Vote.undone)
        .order_by(Vote.created.desc())
        .limit(_RECENT)
    )
    times: dict[str, list[float]] = defaultdict(list)
    for question, milliseconds in recent:
        times[question].append(milliseconds / 1000)
    return {question: round(median(seconds), 1) for question, seconds in sorted(times.items())}
