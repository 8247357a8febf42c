"""Votes by project, kind and person, day by day."""

import uuid
from datetime import datetime, timedelta

from mmrlhf_ray.config import FeedbackConfig
from mmrlhf_ray.feedback.collect import queue
from mmrlhf_ray.feedback.collect.database import Database
from mmrlhf_ray.feedback.collect.items import add_items
from mmrlhf_ray.feedback.collect.projects import add_project
from mmrlhf_ray.feedback.collect.tallies import DAYS, Tally, tallies
from tests.unit.feedback.world import NOON, World, fill, pair, person


def vote(database: Database, config: FeedbackConfig, who: str, project: str, now: datetime) -> str:
    with database.write() as session:
        leased = queue.lease_next(session, who, config, now, project=project)
        assert leased is not None
        answer = {"choice": "left"} if leased.item.question == "pair" else {"text": "7"}
        cast = queue.NewVote(str(uuid.uuid4()), leased.item.id, answer, 1000)
        return queue.submit(session, who, cast, config, now).vote_id


def test_each_vote_counts_once_on_its_day(database: Database, config: FeedbackConfig) -> None:
    ann, bob = person(database, "ann"), person(database, "bob")
    with database.write() as session:
        add_project(session, "other", {}, "test", NOON)
        write = {"prompt": "w", "question": "demonstrate", "responses": [], "overlap": 3}
        add_items(session, [write], config, NOON, "other")
    fill(database, config, pair("a"), pair("b"), pair("c"))
    old, yesterday = NOON - timedelta(days=DAYS), NOON - timedelta(hours=13)
    for who, project, now in (
        (ann, "default", old),
        (ann, "default", yesterday),
        (bob, "default", NOON - timedelta(minutes=59)),
        (ann, "other", NOON - timedelta(minutes=61)),
    ):
        vote(database, config, who, project, now)
    taken_back = vote(database, config, bob, "other", NOON)
    with database.write() as session:
        queue.undo(session, bob, taken_back, config, NOON)
    with database.read() as session:
        found = tallies(session, config, NOON, ("default", "other"))
        only = tallies(session, config, NOON, ("other",))
    none = (0,) * (DAYS - 2)
    assert found["project"] == [
        Tally("default", 3, 1, (*none, 1, 1), 3, 6),
        Tally("other", 1, 0, (*none, 0, 1), 1, 3),
    ]
    assert found["kind"] == [Tally("pair", 3, 1, (*none, 1, 1), 3, 6), Tally("demonstrate", 1, 0, (*none, 0, 1), 1, 3)]
    assert found["person"] == [Tally(ann, 3, 0, (*none, 1, 1)), Tally(bob, 1, 1, (*none, 0, 1))]
    assert only["project"] == [Tally("other", 1, 0, (*none, 0, 1), 1, 3)]


def test_the_page_has_a_chart_of_each_project(world: World) -> None:
    with world.database.write() as session:
        add_project(session, "tone", {"title": "Tone of voice"}, "test", NOON)
        add_items(session, [pair("t")], world.config, NOON, "tone")
    empty = world.call("admin", "GET", "/admin/progress").text
    assert "Nobody has voted yet." in empty
    vote(world.database, world.config, person(world.database, "ann"), "tone", datetime.now(NOON.tzinfo))
    page = world.call("admin", "GET", "/admin/progress").text
    assert page.count('class="bars"') == 3
    assert "Votes of the last 14 days: " + "0, " * (DAYS - 1) + "1" in page
    assert world.call("admin", "GET", "/admin/progress?project=default").text.count('class="bars"') == 0
    assert world.call("annotator", "GET", "/admin/progress").status_code == 403
