"""Leases, votes, undo, skips: who is asked what, and what counts."""

import random
import uuid
from collections import Counter
from datetime import datetime, timedelta
from typing import Any

import pytest

from mmrlhf_ray.config import FeedbackConfig
from mmrlhf_ray.feedback.collect import queue
from mmrlhf_ray.feedback.collect.database import Database
from mmrlhf_ray.feedback.collect.export import annotation_rows
from mmrlhf_ray.feedback.collect.progress import progress
from mmrlhf_ray.feedback.collect.tables import Item, Lease, Vote
from mmrlhf_ray.feedback.errors import Conflict, Gone, Invalid, Unknown
from mmrlhf_ray.feedback.questions import AnswerError
from tests.unit.feedback.world import NOON, fill, pair, person

LATER = NOON + timedelta(seconds=61)
"""After the leases of NOON."""


class Queue:
    """The functions, each in a transaction of its own."""

    def __init__(self, database: Database, config: FeedbackConfig) -> None:
        self.database, self.config = database, config

    def lease(self, who: str, now: datetime = NOON, **changes: Any) -> queue.Leased | None:
        with self.database.write() as session:
            return queue.lease_next(session, who, self.config.model_copy(update=changes), now, random.Random(0))

    def item(self, who: str, now: datetime = NOON) -> str:
        leased = self.lease(who, now)
        assert leased is not None
        return leased.item.id

    def vote(
        self, who: str, item: str, now: datetime = NOON, choice: str = "left", vote_id: str = ""
    ) -> queue.Recorded:
        vote = queue.NewVote(vote_id or str(uuid.uuid4()), item, {"choice": choice}, 1000)
        with self.database.write() as session:
            return queue.submit(session, who, vote, self.config, now)

    def undo(self, who: str, vote_id: str, now: datetime = NOON) -> queue.Recorded:
        with self.database.write() as session:
            return queue.undo(session, who, vote_id, self.config, now)

    def skip(self, who: str, item: str, reason: str = "unclear") -> None:
        with self.database.write() as session:
            queue.skip(session, who, item, reason, "", NOON)

    def count(self, item: str) -> int:
        """Votes of the item as counted in it, which must be those that are there."""
        with self.database.read() as session:
            votes = session.get_one(Item, item).votes
            there = session.query(Vote).where(Vote.item_id == item, ~Vote.undone).count()
        assert votes == there
        return votes


@pytest.fixture
def q(database: Database, config: FeedbackConfig) -> Queue:
    return Queue(database, config)


@pytest.fixture
def cyd(database: Database) -> str:
    return person(database, "cyd")


def test_by_priority_then_in_order_of_arrival(q: Queue, ann: str) -> None:
    first, second, urgent = fill(q.database, q.config, pair("a"), pair("b"), pair("c", priority=2.5))
    seen = []
    for _ in range(3):
        seen.append(q.item(ann))
        q.vote(ann, seen[-1])
    assert seen == [urgent, first, second]
    assert q.lease(ann) is None


def test_a_lease_is_kept_until_the_vote(q: Queue, ann: str) -> None:
    fill(q.database, q.config, *(pair(str(i)) for i in range(20)))
    leases = [q.lease(ann, NOON + timedelta(seconds=20 * i)) for i in range(10)]
    assert len({lease.item.id for lease in leases if lease}) == 1, "asking again renews the lease"
    assert len({lease.order_shown for lease in leases if lease}) == 1


def test_the_order_is_drawn_anew_for_each_person(q: Queue) -> None:
    fill(q.database, q.config, pair(overlap=40))
    orders = Counter()
    for i in range(40):
        who = person(q.database, f"person {i}")
        with q.database.write() as session:
            leased = queue.lease_next(session, who, q.config, NOON)
        assert leased is not None
        orders[leased.order_shown] += 1
        assert leased.texts == tuple(leased.item.responses[i]["text"] for i in leased.order_shown)
    assert set(orders) == {(0, 1), (1, 0)}


def test_never_beyond_the_overlap(q: Queue, ann: str, bob: str, cyd: str) -> None:
    (item,) = fill(q.database, q.config, pair(overlap=2))
    assert q.item(ann) == q.item(bob) == item
    assert q.lease(cyd) is None, "two hold it"
    q.vote(ann, item)
    assert q.lease(cyd) is None, "one voted, one holds it"
    q.vote(bob, item)
    assert q.lease(cyd, LATER) is None, "two voted"
    assert q.count(item) == 2


def test_an_expired_lease_makes_room(q: Queue, ann: str, bob: str, cyd: str) -> None:
    (item,) = fill(q.database, q.config, pair(overlap=1))
    q.item(ann)
    assert q.lease(bob) is None
    assert q.item(bob, LATER) == item
    with pytest.raises(Gone, match="time for this item was up"):
        q.vote(ann, item, LATER)
    q.vote(bob, item, LATER)
    assert q.count(item) == 1


def test_an_expired_lease_still_counts_while_there_is_room(q: Queue, ann: str) -> None:
    (item,) = fill(q.database, q.config, pair(overlap=1))
    q.item(ann)
    q.vote(ann, item, LATER)
    assert q.count(item) == 1


def test_who_comes_back_sees_the_same_order(q: Queue, ann: str) -> None:
    fill(q.database, q.config, {**pair(), "question": "rank", "responses": [str(i) for i in range(9)]})
    first, again = q.lease(ann), None
    with q.database.write() as session:
        again = queue.lease_next(session, ann, q.config, LATER)
    assert first is not None
    assert again is not None
    assert first.order_shown == again.order_shown


def test_the_same_vote_twice_counts_once(q: Queue, ann: str) -> None:
    (item,) = fill(q.database, q.config, pair())
    q.item(ann)
    vote_id = str(uuid.uuid4())
    once, twice = (q.vote(ann, item, vote_id=vote_id) for _ in range(2))
    assert (once.repeated, twice.repeated) == (False, True)
    assert (once.vote_id, once.item_id) == (twice.vote_id, twice.item_id)
    assert q.count(item) == 1


def test_a_vote_id_is_for_one_vote(q: Queue, ann: str, bob: str) -> None:
    item, other = fill(q.database, q.config, pair("a"), pair("b"))
    vote_id = str(uuid.uuid4())
    q.item(ann)
    q.item(bob)
    q.vote(ann, item, vote_id=vote_id)
    for who, about, choice in ((ann, item, "right"), (ann, other, "left"), (bob, item, "left")):
        with pytest.raises(Conflict, match="stands for another vote") as caught:
            q.vote(who, about, choice=choice, vote_id=vote_id)
        assert caught.value.field == "vote_id"
    assert q.count(item) == 1


def test_one_vote_per_person_and_item(q: Queue, ann: str) -> None:
    (item,) = fill(q.database, q.config, pair())
    q.item(ann)
    q.vote(ann, item)
    with pytest.raises(Conflict, match="voted on this item already"):
        q.vote(ann, item)
    assert q.lease(ann) is None


def test_no_vote_without_a_lease(q: Queue, ann: str) -> None:
    (item,) = fill(q.database, q.config, pair())
    with pytest.raises(Gone, match="do not hold"):
        q.vote(ann, item)
    with pytest.raises(Unknown):
        q.vote(ann, "nothing")


def test_a_bad_answer_keeps_the_lease(q: Queue, ann: str) -> None:
    (item,) = fill(q.database, q.config, pair())
    q.item(ann)
    with pytest.raises(AnswerError, match="choice"):
        q.vote(ann, item, choice="up")
    assert q.item(ann) == item
    assert q.count(item) == 0


def test_undo_gives_the_item_back_to_its_voter(q: Queue, ann: str, bob: str) -> None:
    item, other = fill(q.database, q.config, pair("a", overlap=1), pair("b"))
    q.item(ann)
    vote = q.vote(ann, item)
    assert q.item(ann) == other
    assert [q.undo(ann, vote.vote_id).repeated for _ in range(2)] == [False, True]
    assert q.count(item) == 0
    assert q.item(ann) == item, "and the other one is given back"
    assert q.item(bob) == other, "the place is held"
    q.vote(ann, item, choice="right")
    with q.database.read() as session:
        assert [row["choice"] for row in annotation_rows(session)] == ["right"]
    assert q.vote(ann, item, vote_id=vote.vote_id).undone, "a late repetition does not bring it back"
    assert q.count(item) == 1


def test_undo_frees_the_place_when_its_lease_ends(q: Queue, ann: str, bob: str) -> None:
    (item,) = fill(q.database, q.config, pair(overlap=1))
    q.item(ann)
    q.undo(ann, q.vote(ann, item).vote_id)
    assert q.lease(bob) is None
    assert q.item(bob, LATER) == item


def test_only_the_last_vote_of_one_s_own_can_be_undone(q: Queue, ann: str, bob: str) -> None:
    fill(q.database, q.config, pair("a"), pair("b"))
    votes = [q.vote(ann, q.item(ann), NOON + timedelta(seconds=i)) for i in range(2)]
    with pytest.raises(Conflict, match="only your last vote"):
        q.undo(ann, votes[0].vote_id)
    with pytest.raises(Unknown):
        q.undo(bob, votes[1].vote_id)
    q.undo(ann, votes[1].vote_id)
    assert q.undo(ann, votes[0].vote_id).undone, "now it is the last"


def test_a_skipped_item_does_not_come_back(q: Queue, ann: str, bob: str) -> None:
    (item,) = fill(q.database, q.config, pair(overlap=1))
    with pytest.raises(Gone):
        q.skip(ann, item)
    q.item(ann)
    with pytest.raises(Invalid, match="expected one of unclear"):
        q.skip(ann, item, "bored")
    q.skip(ann, item)
    q.skip(ann, item)
    assert q.lease(ann, LATER) is None
    assert q.item(bob) == item
    with pytest.raises(Gone):
        q.vote(ann, item)


def test_gold_questions_are_mixed_in(q: Queue, ann: str) -> None:
    golden = [pair(f"gold {i}", gold={"choice": "left"}) for i in range(50)]
    fill(q.database, q.config, *(pair(f"plain {i}") for i in range(150)), *golden)
    rng, seen = random.Random(3), []
    while True:
        with q.database.write() as session:
            config = q.config.model_copy(update={"gold_share": 0.2})
            leased = queue.lease_next(session, ann, config, NOON, rng)
            if leased is None:
                break
            seen.append(leased.item.gold is not None)
        q.vote(ann, leased.item.id)
    assert 0.12 < sum(seen) / len(seen) < 0.28
    assert seen.count(False) == 150
    assert q.lease(ann) is None, "gold questions alone are no work"


def test_everybody_is_asked_gold_questions(q: Queue, ann: str, bob: str, cyd: str) -> None:
    (item,) = fill(q.database, q.config, pair(gold={"choice": "left"}))
    for who in (ann, bob, cyd):
        leased = q.lease(who, gold_share=1.0)
        assert leased is not None
        q.vote(who, item)
    assert q.count(item) == 3


def test_progress(q: Queue, ann: str, bob: str) -> None:
    fill(q.database, q.config, pair("a", overlap=1), pair("b"), pair("g", gold={"choice": "tie"}))
    q.vote(ann, q.item(ann))
    q.vote(ann, q.item(ann, NOON + timedelta(hours=2)), NOON + timedelta(hours=2))
    q.skip(bob, q.item(bob))
    with q.database.read() as session:
        found = progress(session, ann, q.config, NOON + timedelta(hours=2, minutes=1))
        others = progress(session, bob, q.config, NOON)
    assert (found.items, found.done, found.wanted, found.cast) == (2, 1, 3, 2)
    assert (found.mine, found.my_pace, found.pace, found.my_skips) == (2, 1, 1, 0)
    assert found.median_seconds == {"pair": 1.0}
    assert (others.mine, others.my_skips) == (0, 1)


def test_leases_end_with_the_vote(q: Queue, ann: str) -> None:
    (item,) = fill(q.database, q.config, pair())
    q.vote(ann, q.item(ann))
    with q.database.read() as session:
        assert session.query(Lease).count() == 0
    assert q.count(item) == 1
