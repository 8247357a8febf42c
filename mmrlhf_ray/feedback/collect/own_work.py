"""An annotator's view of their own work."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from mmrlhf_ray.feedback.collect.tables import Item, Skip, Vote


def last_vote(session: Session, annotator_id: str) -> str | None:
    """The vote_id that `queue.undo` takes now."""
    return session.scalar(
        select(Vote.id).where(Vote.annotator_id == annotator_id, ~Vote.undone).order_by(Vote.created.desc()).limit(1)
    )


def undone_answer(
    session: Session, annotator_id: str, item_id: str, order_shown: Sequence[int]
) -> Mapping[str, Any] | None:
    """The answer to this item that the annotator took back last, given in the same order: a start for the new one."""
    vote = session.scalar(
        select(Vote)
        .where(Vote.annotator_id == annotator_id, Vote.item_id == item_id, Vote.undone)
        .order_by(Vote.created.desc())
        .limit(1)
    )
    return None if vote is None or list(vote.order_shown) != list(order_shown) else vote.answer


def waiting(session: Session, annotator_id: str) -> Mapping[str, int]:
    """Kind of question → items that this annotator may still be asked; gold questions do not count."""
    voted = select(Vote.id).where(Vote.item_id == Item.id, Vote.annotator_id == annotator_id, ~Vote.undone)
    skipped = select(Skip.item_id).where(Skip.item_id == Item.id, Skip.annotator_id == annotator_id)
    rows = session.execute(
        select(Item.question, func.count().label("number"))
        .where(Item.votes < Item.overlap, Item.gold.is_(None), ~voted.exists(), ~skipped.exists())
        .group_by(Item.question)
    )
    return {row.question: row.number for row in rows}
