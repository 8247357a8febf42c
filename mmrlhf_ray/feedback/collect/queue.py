"""Who is asked what next, and what becomes of the answer. Every function runs in one `Database.write()` transaction.

What holds at all times: votes in force + live leases of an item ≤ its overlap, so that no answer is given in vain.
PostgreSQL keeps it by row locks, taken in the order annotator, item; SQLite has one writer at a time.
"""

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Select, delete, select
from sqlalchemy.orm import Session

from mmrlhf_ray.config import FeedbackConfig
from mmrlhf_ray.feedback.collect.outbox import tell
from mmrlhf_ray.feedback.collect.projects import Standing, config_in, need, rules_of, standings, votes_left
from mmrlhf_ray.feedback.collect.queries import CANDIDATES, HELD, LOCKED
from mmrlhf_ray.feedback.collect.tables import (
    Annotator,
    ArenaBattle,
    Item,
    Lease,
    Project,
    Skip,
    Vote,
    note,
)
from mmrlhf_ray.feedback.errors import N_, Conflict, Gone, Invalid, Unknown
from mmrlhf_ray.feedback.questions import Answer, AnswerError, Asked, question_of

SKIP_REASONS = ("unclear", "cannot_judge", "broken_media", "offensive", "other")
_RANDOM = random.SystemRandom()


@dataclass(frozen=True)
class Leased:
    """An item that is held for an annotator."""

    item: Item
    order_shown: tuple[int, ...]
    """Index into item.responses of what is shown at each place."""
    expires: datetime

    @property
    def texts(self) -> tuple[str, ...]:
        """The responses in the order shown."""
        return tuple(str(self.item.responses[index]["text"]) for index in self.order_shown)


@dataclass(frozen=True)
class NewVote:
    """A vote as a client sends it."""

    vote_id: str
    """UUID that the client chose."""
    item_id: str
    answer: Mapping[str, Any]
    milliseconds: int


@dataclass(frozen=True)
class Recorded:
    """A vote that is stored."""

    vote_id: str
    item_id: str
    undone: bool
    repeated: bool
    """It was stored before; nothing changed."""


def lease_next(
    session: Session,
    annotator_id: str,
    config: FeedbackConfig,
    now: datetime,
    rng: random.Random = _RANDOM,
    project: str = "",
) -> Leased | None:
    """The item that this annotator holds already, else the next one; None where there is nothing to do.

    It is one of `project`, where that is given; else of the project of the highest priority that has one for them. In
    a project items come by priority, then in order of arrival. None is given that the annotator voted on or skipped,
    that is another's to answer, whose votes and live leases have reached its overlap, or whose project has had the
    annotator's quota. With probability gold_share a gold question comes, if one is left. Raises Unknown for a project
    in which they have no part.
    """
    lock_annotator(session, annotator_id)
    expires = now + timedelta(seconds=config.lease_s)
    held = held_by(session, annotator_id, now)
    for lease, item in held:
        if project in ("", item.project):
            lease.expires = expires
            return Leased(item, tuple(lease.order_shown), expires)
    give_back(session, held, now)  # another project was chosen
    for standing in chosen_by(session, annotator_id, project):
        if votes_left(session, standing.project.name, standing.rules, annotator_id, now) == 0:
            continue
        found = next_item(session, annotator_id, standing.project.name, "", config, now, rng)
        if found is not None:
            return new_lease(session, annotator_id, *found, expires, rng)
    return None


def chosen_by(session: Session, annotator_id: str, project: str) -> list[Standing]:
    """The open projects to take items from: one, or all that are this annotator's. Raises Unknown."""
    chosen = [need(session, annotator_id, project, "annotator")] if project else standings(session, annotator_id)
    return [standing for standing in chosen if standing.project.active]


def give_back(session: Session, held: Sequence[tuple[Lease, Item]], now: datetime) -> None:
    """Let others have these items."""
    for lease, _ in held:
        lease.expires = now
    session.flush()


def next_item(
    session: Session,
    annotator_id: str,
    project: str,
    kind: str,
    config: FeedbackConfig,
    now: datetime,
    rng: random.Random,
) -> tuple[Item, Lease | None] | None:
    """An item of a project, and the lease of it that this annotator let expire; quotas aside. `kind`: only of this kind
    of question, and besides those that they hold; "" = of any."""
    for gold in (True, False) if rng.random() < config.gold_share else (False,):
        found = _open_item(session, annotator_id, project, kind, gold, now)
        if found is not None:
            return found
    return None


def new_lease(
    session: Session, annotator_id: str, item: Item, old: Lease | None, expires: datetime, rng: random.Random
) -> Leased:
    """Hold an item for an annotator."""
    if old is not None:  # who comes back sees the responses in the same places
        old.expires = expires
        return Leased(item, tuple(old.order_shown), expires)
    order = rng.sample(range(len(item.responses)), len(item.responses))
    session.add(Lease(item_id=item.id, annotator_id=annotator_id, order_shown=order, expires=expires))
    return Leased(item, tuple(order), expires)


def submit(session: Session, annotator_id: str, vote: NewVote, config: FeedbackConfig, now: datetime) -> Recorded:
    """Store a vote; the same vote again changes nothing.

    Who let the lease expire may still vote while the overlap has room. Raises AnswerError for an answer that makes no
    sense, Unknown for an item that is not there, Conflict for a vote_id that stands for another vote and for a second
    vote on an item, Gone where the annotator no longer holds the item.
    """
    lock_annotator(session, annotator_id)
    on_item = (Vote.item_id == vote.item_id) & (Vote.annotator_id == annotator_id) & ~Vote.undone
    earlier = {found.id: found for found in session.scalars(select(Vote).where((Vote.id == vote.vote_id) | on_item))}
    if vote.vote_id in earlier:
        return _repeated(session, earlier[vote.vote_id], annotator_id, vote, config)
    item, lease, project = _locked_item(session, vote.item_id, annotator_id)
    if earlier:
        raise Conflict(N_("you have voted on this item already; undo that vote to change it"), "item_id")
    if lease is None:
        raise Gone(N_("you do not hold this item; ask for the next one"), "item_id")
    if lease.expires <= now and not _has_room(item, _leases(session, item), annotator_id, now):
        raise Gone(N_("the time for this item was up, and others have answered it; ask for the next one"), "item_id")
    new = _checked(item, annotator_id, vote, lease.order_shown, rules_of(project).in_force(config), now)
    session.add(new)
    item.votes += 1
    session.delete(lease)
    if config.webhook is not None and item.votes == item.overlap:
        tell_of(session, "item.done", item, now)
    return Recorded(vote.vote_id, item.id, undone=False, repeated=False)


def _checked(
    item: Item, annotator_id: str, vote: NewVote, order_shown: list[int], config: FeedbackConfig, now: datetime
) -> Vote:
    """The row of a vote on responses in this order; raises AnswerError."""
    answer = question_of(item.question).check(vote.answer, asked_of(item, order_shown, config))
    return Vote(
        id=vote.vote_id,
        item_id=item.id,
        annotator_id=annotator_id,
        question=item.question,
        answer=plain(answer),
        order_shown=order_shown,
        milliseconds=vote.milliseconds,
        created=now,
        undone=False,
    )


def change(
    session: Session, annotator_id: str, old_id: str, vote: NewVote, config: FeedbackConfig, now: datetime
) -> Recorded:
    """Put a new vote in the place of an older one of the same annotator, about the responses in the same order; the
    same change again changes nothing.

    Raises AnswerError, Unknown for a vote that the annotator has not cast, and Conflict for one that was taken back or
    changed already, for one on another item, and for a vote_id that stands for another vote.
    """
    lock_annotator(session, annotator_id)
    known = session.get(Vote, vote.vote_id)
    if known is not None:
        return _repeated(session, known, annotator_id, vote, config)
    old = session.get(Vote, old_id)
    if old is None or old.annotator_id != annotator_id:
        raise Unknown(N_("you have cast no such vote"), "vote_id")
    if old.undone:
        raise Conflict(N_("this vote was taken back or changed already"), "vote_id")
    if old.item_id != vote.item_id:
        raise Conflict("the vote is on another item; give the item_id of the vote", "item_id")
    _check_blind(session, old)
    item, _, project = _locked_item(session, old.item_id, annotator_id)
    new = _checked(item, annotator_id, vote, old.order_shown, rules_of(project).in_force(config), now)
    old.undone = True
    session.flush()  # an annotator has one vote in force on an item
    session.add(new)
    note(session, now, annotator_id, "vote changed", old.id, vote.vote_id)
    return Recorded(vote.vote_id, item.id, undone=False, repeated=False)


def undo(session: Session, annotator_id: str, vote_id: str, config: FeedbackConfig, now: datetime) -> Recorded:
    """Take back the annotator's last vote, who then holds its item again; doing so twice changes nothing.

    What the annotator held meanwhile is given back. Raises Unknown and, for a vote that is not the last, Conflict.
    """
    lock_annotator(session, annotator_id)
    vote = session.get(Vote, vote_id)
    if vote is None or vote.annotator_id != annotator_id:
        raise Unknown(N_("you have cast no such vote"), "vote_id")
    if vote.undone:
        return Recorded(vote.id, vote.item_id, undone=True, repeated=True)
    last = session.scalar(_in_force(annotator_id).order_by(Vote.created.desc()).limit(1))
    if last != vote_id:
        raise Conflict(N_("only your last vote can be undone"), "vote_id")
    _check_blind(session, vote)
    item, _, _ = _locked_item(session, vote.item_id, annotator_id)
    vote.undone = True
    if config.webhook is not None and item.votes == item.overlap:
        tell_of(session, "item.reopened", item, now)
    item.votes -= 1
    session.execute(delete(Lease).where(Lease.annotator_id == annotator_id))
    expires = now + timedelta(seconds=config.lease_s)
    session.add(Lease(item_id=item.id, annotator_id=annotator_id, order_shown=vote.order_shown, expires=expires))
    note(session, now, annotator_id, "vote undone", vote.id)
    return Recorded(vote.id, item.id, undone=True, repeated=False)


def _check_blind(session: Session, vote: Vote) -> None:
    """Raises Conflict for a vote of the arena, which showed the models' names afterwards."""
    if session.get(ArenaBattle, vote.item_id) is not None:
        raise Conflict(N_("a vote in the arena stays, as the models have been named"), "vote_id")


def skip(session: Session, annotator_id: str, item_id: str, reason: str, comment: str, now: datetime) -> None:
    """Give an item back for good; skipping twice changes nothing. Raises Invalid, Unknown, and Gone without a lease."""
    if reason not in SKIP_REASONS:
        raise Invalid(f"expected one of {', '.join(SKIP_REASONS)}, got {reason[:40]!r}", "reason")
    lock_annotator(session, annotator_id)
    item, lease, _ = _locked_item(session, item_id, annotator_id)
    if session.get(Skip, (item.id, annotator_id)) is not None:
        return
    if lease is None:
        raise Gone(N_("you do not hold this item; ask for the next one"), "item_id")
    session.delete(lease)
    session.add(Skip(item_id=item.id, annotator_id=annotator_id, reason=reason, comment=comment, created=now))


def lock_annotator(session: Session, annotator_id: str) -> None:
    """One request of an annotator at a time, so that nobody is given two items by two requests."""
    if not _one_writer(session):
        session.execute(select(Annotator.id).where(Annotator.id == annotator_id).with_for_update())


def _one_writer(session: Session) -> bool:
    """Whether the whole database is locked already, so that rows need not be."""
    return session.get_bind().dialect.name == "sqlite"


def _locked_item(session: Session, item_id: str, annotator_id: str) -> tuple[Item, Lease | None, Project]:
    """The item, this annotator's lease of it, and its project. Raises Unknown."""
    found = session.execute(LOCKED, {"item": item_id, "who": annotator_id}).first()
    if found is None:
        raise Unknown(N_("there is no such item"), "item_id")
    return found[0], found[1], found[2]


def held_by(session: Session, annotator_id: str, now: datetime) -> list[tuple[Lease, Item]]:
    """What an annotator holds, in the order in which items are asked."""
    return [(row[0], row[1]) for row in session.execute(HELD, {"who": annotator_id, "now": now})]


def _open_item(
    session: Session, annotator_id: str, project: str, kind: str, gold: bool, now: datetime
) -> tuple[Item, Lease | None] | None:
    """An item with room, locked, and the lease of it that this annotator let expire.

    Items that another request has locked are passed over at first, and waited for only where nothing else is left:
    "nothing to do" must be true.
    """
    full: list[str] = []
    given = {"who": annotator_id, "project": project, "now": now} | ({"question": kind} if kind else {})
    for skip_locked in (True, False):
        while True:
            query = CANDIDATES[gold, bool(kind)]
            if not _one_writer(session):
                query = query.with_for_update(of=Item, skip_locked=skip_locked)
            item = session.scalar(query.where(Item.id.not_in(full)) if full else query, given)
            if item is None:
                break
            # PostgreSQL counted before it had the lock; count again now that nobody else can lease the item.
            leases = _leases(session, item)
            if _has_room(item, leases, annotator_id, now):
                return item, next((lease for lease in leases if lease.annotator_id == annotator_id), None)
            full.append(item.id)
        if _one_writer(session):
            break
    return None


def _leases(session: Session, item: Item) -> Sequence[Lease]:
    return session.scalars(select(Lease).where(Lease.item_id == item.id)).all()


def _has_room(item: Item, leases: Sequence[Lease], annotator_id: str, now: datetime) -> bool:
    """Whether the overlap of a locked item has room for this annotator."""
    others = sum(lease.annotator_id != annotator_id and lease.expires > now for lease in leases)
    return item.votes + others < item.overlap


def _in_force(annotator_id: str) -> Select[str]:
    return select(Vote.id).where(Vote.annotator_id == annotator_id, ~Vote.undone)


def asked_of(item: Item, order_shown: Sequence[int], config: FeedbackConfig) -> Asked:
    """The facts that an answer to the item is checked against when its responses are shown in this order. `config` is
    that of the item's project."""
    return Asked(
        responses=tuple(str(item.responses[index]["text"]) for index in order_shown),
        aspects=tuple(aspect.name for aspect in config.aspects),
        max_text_chars=config.max_text_chars,
        media=tuple(part["type"] for part in media_parts(item.messages)),
        max_seconds=config.limits.seconds,
    )


def _repeated(session: Session, earlier: Vote, annotator_id: str, vote: NewVote, config: FeedbackConfig) -> Recorded:
    """The vote that has this vote_id, if it is this one. Raises Conflict."""
    other = Conflict("this vote_id stands for another vote; make a new UUID for each vote", "vote_id")
    if earlier.annotator_id != annotator_id or earlier.item_id != vote.item_id:
        raise other
    item = session.get_one(Item, earlier.item_id)
    rules = config_in(session, item.project, config)
    try:
        answer = question_of(item.question).check(vote.answer, asked_of(item, earlier.order_shown, rules))
    except AnswerError as error:
        raise other from error
    if plain(answer) != earlier.answer:
        raise other
    return Recorded(earlier.id, earlier.item_id, undone=earlier.undone, repeated=True)


def tell_of(session: Session, event: str, item: Item, now: datetime) -> None:
    """Put what happened to an item into the outbox."""
    about = {"item_id": item.id, "prompt_id": item.prompt_id, "question": item.question, "round": item.round}
    tell(session, event, now, **about)


def plain(answer: Answer) -> dict[str, Any]:
    """An answer as it is stored: JSON knows no tuples, and most answers point at no place."""
    stored: dict[str, Any] = json.loads(json.dumps(asdict(answer)))
    return {key: value for key, value in stored.items() if key != "regions" or value}


def media_parts(messages: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Those parts of chat messages that are media, in order."""
    for message in messages:
        if not isinstance(message["content"], str):
            yield from (part for part in message["content"] if part["type"] != "text")
