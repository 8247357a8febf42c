"""The queue as those who run it see it: items found by filters, changed, deleted."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, String, cast, delete, func, select
from sqlalchemy.orm import Session

from mmrlhf_ray.feedback.collect.projects import assign
from mmrlhf_ray.feedback.collect.tables import Item, Lease, Review, Skip, Suggestion, SuggestionSeen, Vote, note
from mmrlhf_ray.feedback.errors import N_, Conflict, Unknown

STATES = ("open", "done", "gold", "decided")
"""Wants more votes; has all; has a known answer; a reviewer has decided it."""


@dataclass(frozen=True)
class Filter:
    """Which items are looked for; "" and None choose nothing."""

    question: str = ""
    task: str = ""
    state: str = ""
    """One of STATES."""
    text: str = ""
    """Occurs in the prompt, a response or its source, or an id, in whatever case."""
    round: int | None = None
    projects: Sequence[str] | None = None
    """Of one of these."""


@dataclass(frozen=True)
class Found:
    """One page of items."""

    items: Sequence[Item]
    """By priority, then in order of arrival, as they are asked."""
    found: int
    """On all pages."""
    page: int
    pages: int


def find_items(session: Session, wanted: Filter, page: int, per_page: int) -> Found:
    """The items of a page, from 1; of the last one where there are fewer pages."""
    conditions = _conditions(wanted)
    found = session.scalar(select(func.count()).select_from(Item).where(*conditions)) or 0
    pages = max(1, -(-found // per_page))
    page = min(max(1, page), pages)
    query = select(Item).where(*conditions).order_by(Item.priority.desc(), Item.position)
    items = session.scalars(query.offset((page - 1) * per_page).limit(per_page)).all()
    return Found(items, found, page, pages)


def find_item(session: Session, item_id: str) -> Item:
    """Raises Unknown."""
    item = session.get(Item, item_id)
    if item is None:
        raise Unknown(N_("there is no such item"), "item_id")
    return item


def _conditions(wanted: Filter) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if wanted.projects is not None:
        conditions.append(Item.project.in_(wanted.projects))
    if wanted.question:
        conditions.append(Item.question == wanted.question)
    if wanted.task:
        conditions.append(Item.task == wanted.task)
    if wanted.round is not None:
        conditions.append(Item.round == wanted.round)
    if wanted.state:
        conditions.append(
            {
                "open": Item.gold.is_(None) & (Item.votes < Item.overlap),
                "done": Item.gold.is_(None) & (Item.votes >= Item.overlap),
                "gold": Item.gold.is_not(None),
                "decided": select(Review.item_id).where(Review.item_id == Item.id).exists(),
            }[wanted.state]
        )
    if wanted.text:
        written = json.dumps(wanted.text)[1:-1]  # as it stands in a column of JSON
        places = [cast(Item.messages, String).icontains(written, autoescape=True)]
        places.append(cast(Item.responses, String).icontains(written, autoescape=True))
        places += [column.icontains(wanted.text, autoescape=True) for column in (Item.id, Item.prompt_id)]
        conditions.append(places[0] | places[1] | places[2] | places[3])
    return conditions


def edit_item(
    session: Session,
    item_id: str,
    priority: float | None,
    overlap: int | None,
    assigned: str | None,
    actor: str,
    now: datetime,
) -> Item:
    """Ask an item sooner or later, more or fewer people, or only an account or an `@group` ("" = everyone); None leaves
    it. Raises Unknown."""
    item = _locked(session, item_id)
    if priority is not None:
        item.priority = priority
    if overlap is not None:
        item.overlap = overlap
    if assigned is not None:
        assign(session, item, assigned)
    note(session, now, actor, "item changed", item.id, f"priority {item.priority:g}, overlap {item.overlap}")
    return item


def delete_item(session: Session, item_id: str, with_votes: bool, actor: str, now: datetime) -> int:
    """Delete an item with its leases, skips, review and votes, undone ones included; returns how many counted, a
    review among them.

    Raises Unknown, and Conflict where there are votes unless `with_votes`.
    """
    item = _locked(session, item_id)
    votes = session.scalar(select(func.count()).where(Vote.item_id == item.id, ~Vote.undone)) or 0
    votes += session.scalar(select(func.count()).where(Review.item_id == item.id)) or 0
    if votes and not with_votes:
        raise Conflict(N_("this item has %(votes)s votes; say that they may go as well"), "votes", votes=votes)
    for table in (Vote, Lease, Skip, Review, Suggestion, SuggestionSeen):
        session.execute(delete(table).where(table.item_id == item.id))
    session.delete(item)
    note(session, now, actor, "item deleted", item_id, f"{votes} votes")
    return votes


def _locked(session: Session, item_id: str) -> Item:
    item = session.get(Item, item_id, with_for_update=True)
    if item is None:
        raise Unknown(N_("there is no such item"), "item_id")
    return item
