"""Many short questions at a time: each is held, counted and limited as if it had been given alone."""

import random
import uuid
from datetime import timedelta
from typing import Any

import pytest

from mmrlhf_ray.config import FeedbackConfig
from mmrlhf_ray.feedback.collect import queue
from mmrlhf_ray.feedback.collect.database import Database
from mmrlhf_ray.feedback.collect.items import add_items
from mmrlhf_ray.feedback.collect.projects import add_project
from mmrlhf_ray.feedback.collect.sheet import lease_sheet
from mmrlhf_ray.feedback.collect.tables import Item, Lease
from mmrlhf_ray.feedback.errors import Gone, Invalid, Unknown
from tests.unit.feedback.world import NOON, World, fill, pair, person

LATER = NOON + timedelta(seconds=61)
"""After the leases of NOON."""
RATE = {"question": "rate", "responses": ["a"]}


def sheet(database: Database, config: FeedbackConfig, who: str, kind: str = "pair", **more: Any) -> list[queue.Leased]:
    given = {"now": NOON, "rng": random.Random(0)} | more
    with database.write() as session:
        return lease_sheet(session, who, kind, config, **given)


def ids(leased: list[queue.Leased]) -> list[str]:
    return [one.item.id for one in leased]


def vote(database: Database, config: FeedbackConfig, who: str, item: str, now: Any = NOON) -> None:
    with database.write() as session:
        cast = queue.NewVote(str(uuid.uuid4()), item, {"choice": "left"}, 1000)
        queue.submit(session, who, cast, config, now)


def test_of_one_kind_by_priority_each_held_in_its_own_order(
    database: Database, config: FeedbackConfig, ann: str
) -> None:
    rows = [pair(str(i)) for i in range(6)] + [pair("urgent", priority=2.0), {"prompt": "r", **RATE}]
    known = fill(database, config, *rows)
    found = sheet(database, config, ann, size=5)
    assert ids(found) == [known[6], *known[:4]]
    again = sheet(database, config, ann, size=5)
    assert [(one.item.id, one.order_shown) for one in again] == [(one.item.id, one.order_shown) for one in found]
    with database.read() as session:
        assert session.query(Lease).filter(Lease.expires > NOON).count() == 5
    assert len({one.order_shown for one in sheet(database, config, ann, size=12)}) == 2


def test_what_is_not_answered_comes_first_again(database: Database, config: FeedbackConfig, ann: str) -> None:
    known = fill(database, config, *(pair(str(i)) for i in range(6)))
    sheet(database, config, ann, size=3)
    for item in (known[0], known[2]):
        vote(database, config, ann, item)
    assert ids(sheet(database, config, ann, size=3)) == [known[1], known[3], known[4]]
    with database.write() as session:
        queue.skip(session, ann, known[1], "unclear", "", NOON)
    assert ids(sheet(database, config, ann, size=9)) == [known[3], known[4], known[5]]


def test_overlap_holds_between_sheets(database: Database, config: FeedbackConfig, ann: str, bob: str) -> None:
    known = fill(database, config, *(pair(str(i), overlap=1) for i in range(4)))
    assert ids(sheet(database, config, ann, size=3)) == list(known[:3])
    assert ids(sheet(database, config, bob, size=3)) == [known[3]]
    assert ids(sheet(database, config, bob, size=3, now=LATER)) == list(known[:3]), (
        "what Ann held has expired, as has his"
    )
    with pytest.raises(Gone, match="time for this item was up"):
        vote(database, config, ann, known[0], LATER)


def test_another_choice_gives_back_what_was_held(
    database: Database, config: FeedbackConfig, ann: str, bob: str
) -> None:
    known = fill(database, config, *(pair(str(i), overlap=1) for i in range(3)), {"prompt": "r", **RATE})
    sheet(database, config, ann)
    assert ids(sheet(database, config, ann, "rate")) == [known[3]]
    assert ids(sheet(database, config, bob)) == list(known[:3])


def test_one_at_a_time_goes_on_with_what_is_held(
    database: Database, config: FeedbackConfig, ann: str, bob: str
) -> None:
    known = fill(database, config, *(pair(str(i), overlap=1) for i in range(3)))
    with database.write() as session:
        add_project(session, "other", {}, "test", NOON)
        (far,) = add_items(session, [pair("far", overlap=1)], config, NOON, "other").item_ids
    sheet(database, config, ann, project="default")
    with database.write() as session:
        first = queue.lease_next(session, ann, config, NOON)
        assert first is not None
        assert first.item.id == known[0]
        other = queue.lease_next(session, ann, config, NOON, project="other")
        assert other is not None
        assert other.item.id == far
    assert ids(sheet(database, config, bob, project="default")) == list(known), "another project gives the rest back"
    with pytest.raises(Unknown):
        sheet(database, config, ann, project="nowhere")


def test_no_more_than_the_quota_leaves(database: Database, config: FeedbackConfig, ann: str) -> None:
    with database.write() as session:
        add_project(session, "few", {"quota_day": 3}, "test", NOON)
        few = add_items(session, [pair(f"few {i}") for i in range(6)], config, NOON, "few").item_ids
    (other,) = fill(database, config, pair("other"))
    assert sorted(ids(sheet(database, config, ann))) == sorted([*few[:3], other])
    vote(database, config, ann, few[0])
    assert ids(sheet(database, config, ann, project="few")) == list(few[1:3])


def test_gold_questions_are_among_them(database: Database, config: FeedbackConfig, ann: str) -> None:
    gold = [pair(f"gold {i}", gold={"choice": "left"}) for i in range(20)]
    fill(database, config, *(pair(str(i)) for i in range(20)), *gold)
    found = sheet(database, config.model_copy(update={"gold_share": 0.5}), ann, rng=random.Random(1))
    tests = [one.item.gold is not None for one in found]
    assert len(found) == 12
    assert 3 <= sum(tests) <= 9
    assert tests not in (sorted(tests), sorted(tests, reverse=True)), "they stand anywhere"
    assert not any(one.item.gold for one in sheet(database, config, person(database, "cyd")))


def test_a_slow_kind_is_refused(database: Database, config: FeedbackConfig, ann: str) -> None:
    with pytest.raises(Invalid, match="expected one of pair, rate"):
        sheet(database, config, ann, "rank")


def test_the_page_says_no_more_than_that_of_one_item(world: World) -> None:
    fill(world.database, world.config, *(pair(f"“{i}”<b>", task="secret-task") for i in range(3)))
    page = world.call("annotator", "GET", "/work/many?kind=pair")
    assert page.status_code == 200
    assert page.text.count('class="card panel"') == 3
    assert "<b>" not in page.text.replace("<b></b>", "")
    assert "secret-task" not in page.text
    assert world.call("annotator", "GET", "/work/many?kind=spans").status_code == 422
    with world.database.read() as session:
        assert session.query(Item).filter(Item.votes > 0).count() == 0
