"""Reviewers' decisions about items on which annotators disagree."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from mmrlhf_ray.config import FeedbackConfig
from mmrlhf_ray.feedback.annotations import Annotation, annotations_of
from mmrlhf_ray.feedback.collect.export import annotations_table
from mmrlhf_ray.feedback.collect.projects import need
from mmrlhf_ray.feedback.collect.queue import asked_of, plain, tell_of
from mmrlhf_ray.feedback.collect.review import ReviewItem, review_queue
from mmrlhf_ray.feedback.collect.tables import Annotator, Item, Review, note
from mmrlhf_ray.feedback.errors import N_, Conflict, Unknown
from mmrlhf_ray.feedback.questions import question_of


@dataclass(frozen=True)
class CastVote:
    """A vote as a reviewer sees it: about the responses as stored."""

    name: str
    """Of the annotator."""
    annotation: Annotation


@dataclass(frozen=True)
class Disputed:
    """An item to decide."""

    item: Item
    disagreement: float
    """0 … 1, see quality.item_disagreement."""
    votes: tuple[CastVote, ...]


def to_review(session: Session, projects: Sequence[str], place: int = 0) -> tuple[Disputed | None, int]:
    """(the item at this place of the queue, how many are in it) of these projects; the most disputed stands at place 0.

    None where the queue is shorter.
    """
    annotations = annotations_of(annotations_table(session, projects=projects))
    queue = review_queue(annotations)
    if not 0 <= place < len(queue):
        return None, len(queue)
    return _disputed(session, queue[place], annotations), len(queue)


def _disputed(session: Session, found: ReviewItem, annotations: Sequence[Annotation]) -> Disputed:
    about = [annotation for annotation in annotations if annotation.item_id == found.item_id]
    rows = session.execute(
        select(Annotator.id, Annotator.name).where(Annotator.id.in_({vote.annotator_id for vote in about}))
    )
    names = {row.id: row.name for row in rows}
    votes = tuple(CastVote(names[vote.annotator_id], vote) for vote in about)
    return Disputed(session.get_one(Item, found.item_id), found.disagreement, votes)


def decide(
    session: Session,
    reviewer_id: str,
    item_id: str,
    answer: Mapping[str, Any],
    milliseconds: int,
    config: FeedbackConfig,
    now: datetime,
) -> bool:
    """Store the decision, about the responses in the order in which they are stored; False if it was stored before.

    Raises AnswerError, Unknown, Refused for somebody who is no reviewer of its project, and Conflict where somebody
    else, or another answer, was quicker.
    """
    item = session.get(Item, item_id, with_for_update=True)
    if item is None:
        raise Unknown(N_("there is no such item"), "item_id")
    rules = need(session, reviewer_id, item.project, "reviewer").rules.in_force(config)
    order = list(range(len(item.responses)))
    checked = plain(question_of(item.question).check(answer, asked_of(item, order, rules)))
    known = session.get(Review, item_id)
    if known is not None:
        if (known.reviewer_id, known.answer) == (reviewer_id, checked):
            return False
        raise Conflict(N_("this item has been decided already; take the next one"), "item_id")
    session.add(
        Review(
            item_id=item.id,
            reviewer_id=reviewer_id,
            question=item.question,
            answer=checked,
            order_shown=order,
            milliseconds=milliseconds,
            created=now,
        )
    )
    note(session, now, reviewer_id, "item reviewed", item.id)
    if config.webhook is not None:
        tell_of(session, "item.reviewed", item, now)
    return True
