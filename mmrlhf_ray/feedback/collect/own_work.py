"""An annotator's view of their own work."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from mmrlhf_ray.feedback.collect.queries import may_answer
from mmrlhf_ray.feedback.collect.tables import Item, Skip, Vote
from mmrlhf_ray.feedback.errors import N_, Unknown

_BEGINNING = 120
"""Characters of what was asked that a list shows."""


def last_vote(session: Session, annotator_id: str) -> str | None:
    """The vote_id that `queue.undo` takes now."""
    return session.scalar(
        select(Vote.id).where(Vote.annotator_id == annotator_id, ~Vote.undone).order_by(Vote.created.desc()).limit(1)
    )


@dataclass(frozen=True)
class OwnVote:
    """A vote in a list."""

    id: str
    question: str
    asked: str
    """The beginning of what was asked."""
    created: datetime


def own_votes(session: Session, annotator_id: str, most: int) -> list[OwnVote]:
    """The annotator's votes in force, the latest first."""
    rows = session.execute(
        select(Vote, Item)
        .join(Item, Item.id == Vote.item_id)
        .where(Vote.annotator_id == annotator_id, ~Vote.undone)
        .order_by(Vote.created.desc())
        .limit(most)
    )
    return [OwnVote(vote.id, vote.question, _beginning(item), vote.created) for vote, item in rows]


def _beginning(item: Item) -> str:
    contents = [message["content"] for message in item.messages if message["role"] == "user"]
    parts = [[{"type": "text", "text": c}] if isinstance(c, str) else c for c in contents]
    text = " ".join(part["text"] for content in parts for part in content if part["type"] == "text")
    return text if len(text) <= _BEGINNING else text[: _BEGINNING - 1] + "…"


def own_vote(session: Session, annotator_id: str, vote_id: str) -> tuple[Vote, Item]:
    """A vote of the annotator that is in force, and its item. Raises Unknown."""
    vote = session.get(Vote, vote_id)
    if vote is None or vote.annotator_id != annotator_id or vote.undone:
        raise Unknown(N_("you have cast no such vote"), "vote_id")
    return vote, session.get_one(Item, vote.item_id)


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


def waiting(session: Session, annotator_id: str, projects: Sequence[str]) -> Mapping[str, Mapping[str, int]]:
    """Project → kind of question → items that this annotator may still be asked there, quotas aside; gold questions do
    not count."""
    voted = select(Vote.id).where(Vote.item_id == Item.id, Vote.annotator_id == annotator_id, ~Vote.undone)
    skipped = select(Skip.item_id).where(Skip.item_id == Item.id, Skip.annotator_id == annotator_id)
    rows = session.execute(
        select(Item.project, Item.question, func.count())
        .where(Item.project.in_(projects), Item.votes < Item.overlap, Item.gold.is_(None), may_answer(annotator_id))
        .where(~voted.exists(), ~skipped.exists())
        .group_by(Item.project, Item.question)
    )
    found: dict[str, dict[str, int]] = {name: {} for name in projects}
    for project, question, number in rows:
        found[project][question] = number
    return found
