"""A person's right to their data: all of it out, or all of it gone."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from mmrlhf_ray.feedback.collect.accounts import find_annotator
from mmrlhf_ray.feedback.collect.battles import erase_battles
from mmrlhf_ray.feedback.collect.export import annotation_rows
from mmrlhf_ray.feedback.collect.export_files import json_row
from mmrlhf_ray.feedback.collect.tables import (
    ArenaBattle,
    Audit,
    GroupMember,
    Identity,
    Item,
    Lease,
    ProjectPerson,
    Review,
    Skip,
    SuggestionSeen,
    Vote,
    WebSession,
    note,
)


@dataclass(frozen=True)
class Erased:
    """Rows that are gone."""

    votes: int
    reviews: int
    skips: int


def personal_data(session: Session, annotator_id: str, actor: str, now: datetime) -> dict[str, Any]:
    """Everything that is stored about an annotator, undone votes included. Raises Unknown."""
    annotator = find_annotator(session, annotator_id)
    skips = session.scalars(select(Skip).where(Skip.annotator_id == annotator.id).order_by(Skip.created))
    undone = session.scalars(select(Vote).where(Vote.annotator_id == annotator.id, Vote.undone).order_by(Vote.created))
    audit = session.scalars(
        select(Audit).where((Audit.actor == annotator.id) | (Audit.target == annotator.id)).order_by(Audit.id)
    )
    data = {
        "account": {
            "id": annotator.id,
            "name": annotator.name,
            "role": annotator.role,
            "active": annotator.active,
            "created": annotator.created.isoformat(),
        },
        "identities": [
            {"issuer": known.issuer, "subject": known.subject}
            for known in session.scalars(select(Identity).where(Identity.annotator_id == annotator.id))
        ],
        "annotations": [json_row(row) for row in annotation_rows(session, annotator_id=annotator.id)],
        "undone": [
            {"vote_id": v.id, "item_id": v.item_id, "answer": v.answer, "created": v.created.isoformat()}
            for v in undone
        ],
        "skips": [
            {"item_id": s.item_id, "reason": s.reason, "comment": s.comment, "created": s.created.isoformat()}
            for s in skips
        ],
        "suggestions_seen": [
            {"item_id": seen.item_id, "at": seen.at.isoformat()}
            for seen in session.scalars(select(SuggestionSeen).where(SuggestionSeen.annotator_id == annotator.id))
        ],
        "battles": [
            {"id": battle.id, "messages": battle.messages, "created": battle.created.isoformat()}
            for battle in session.scalars(select(ArenaBattle).where(ArenaBattle.annotator_id == annotator.id))
        ],
        "projects": {
            given.project: given.role
            for given in session.scalars(select(ProjectPerson).where(ProjectPerson.annotator_id == annotator.id))
        },
        "groups": [
            member.group_name
            for member in session.scalars(select(GroupMember).where(GroupMember.annotator_id == annotator.id))
        ],
        "audit": [{"at": a.at.isoformat(), "action": a.action, "detail": a.detail} for a in audit],
    }
    note(session, now, actor, "annotator exported", annotator.id)
    return data


def erase_annotator(session: Session, annotator_id: str, actor: str, now: datetime) -> Erased:
    """Delete an annotator's votes, reviews, skips, leases, sessions and questions to the arena, and close the account
    without its name.

    Items get back the places that the votes took. The audit log keeps that it happened, under the account's id, and
    nothing else about the person. Raises Unknown.
    """
    annotator = find_annotator(session, annotator_id)
    mine = annotator.id
    voted = select(Vote.item_id).where(Vote.annotator_id == mine, ~Vote.undone)
    # One order for everybody who locks several items, so that nobody waits for each other.
    session.execute(select(Item.id).where(Item.id.in_(voted)).order_by(Item.id).with_for_update()).all()
    session.execute(update(Item).where(Item.id.in_(voted)).values(votes=Item.votes - 1))
    counts = {
        table: session.scalar(select(func.count()).select_from(table).where(column == mine)) or 0
        for table, column in (
            (Vote, Vote.annotator_id), (Review, Review.reviewer_id), (Skip, Skip.annotator_id),
            (Lease, Lease.annotator_id), (WebSession, WebSession.annotator_id),
        )
    }  # fmt: skip
    session.execute(delete(Vote).where(Vote.annotator_id == mine))
    session.execute(delete(Review).where(Review.reviewer_id == mine))
    session.execute(delete(Skip).where(Skip.annotator_id == mine))
    session.execute(delete(Lease).where(Lease.annotator_id == mine))
    session.execute(delete(SuggestionSeen).where(SuggestionSeen.annotator_id == mine))
    session.execute(delete(WebSession).where(WebSession.annotator_id == mine))
    session.execute(delete(Identity).where(Identity.annotator_id == mine))
    erase_battles(session, mine, actor, now)
    session.execute(delete(ProjectPerson).where(ProjectPerson.annotator_id == mine))
    session.execute(delete(GroupMember).where(GroupMember.annotator_id == mine))
    session.execute(update(Item).where(Item.assigned_person == mine).values(assigned_person=None))
    session.execute(update(Audit).where(Audit.actor == mine).values(detail=""))
    annotator.active, annotator.token_hash, annotator.name = False, None, f"erased {mine}"
    erased = Erased(votes=counts[Vote], reviews=counts[Review], skips=counts[Skip])
    note(session, now, actor, "annotator erased", mine, f"{erased.votes} votes")
    return erased
