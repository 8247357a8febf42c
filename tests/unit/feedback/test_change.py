"""An older vote is changed: by its owner, once, and without a gap in which it does not count."""

import json
from typing import Any
from uuid import uuid4

import pytest

from tests.unit.feedback.test_api import vote
from tests.unit.feedback.world import World, fill, pair


@pytest.fixture
def voted(world: World) -> tuple[World, dict[str, Any]]:
    """Two votes of the annotator; the first, on the item "first", is given."""
    fill(world.database, world.config, pair("1?", item_id="first", priority=1.0), pair("2?", item_id="second"))
    first = vote(world, {"choice": "left", "critique": "clear"})
    vote(world, {"choice": "tie"})
    return world, first


def change(world: World, old: dict[str, Any], role: str = "annotator", **changes: Any) -> Any:
    body = {"vote_id": str(uuid4()), "item_id": old["item_id"], "answer": {"choice": "right"}} | changes
    return world.call(role, "POST", f"/api/votes/{old['vote_id']}/change", json=body)


def choices(world: World) -> dict[str, tuple[str, list[int]]]:
    rows = world.call("admin", "GET", "/api/export").text.splitlines()
    return {row["item_id"]: (row["choice"], row["order_shown"]) for row in map(json.loads, rows)}


def test_a_changed_vote_takes_the_place_of_the_old_one(voted: tuple[World, dict[str, Any]]) -> None:
    world, old = voted
    before = choices(world)
    again = str(uuid4())
    assert change(world, old, vote_id=again).status_code == 201
    assert change(world, old, vote_id=again).status_code == 200, "the same change again changes nothing"
    assert choices(world) == before | {"first": ("right", before["first"][1])}
    (item,) = [i for i in world.call("admin", "GET", "/api/items").json()["items"] if i["item_id"] == "first"]
    assert item["votes"] == 1
    refused = change(world, old)
    assert (refused.status_code, "changed already" in refused.json()["error"]) == (409, True)
    assert change(world, {"vote_id": again, "item_id": "first"}, answer={"choice": "tie"}).status_code == 201
    assert choices(world)["first"][0] == "tie"


@pytest.mark.parametrize(
    ("role", "changes", "status"),
    [
        ("reviewer", {}, 404),
        ("annotator", {"item_id": "second"}, 409),
        ("annotator", {"answer": {"choice": "up"}}, 422),
        ("annotator", {"vote_id": "x" * 32}, 422),
        ("client", {}, 403),
    ],
)
def test_what_is_no_change_of_ones_own_vote_is_refused(
    voted: tuple[World, dict[str, Any]], role: str, changes: dict[str, Any], status: int
) -> None:
    world, old = voted
    before = choices(world)
    assert change(world, old, role, **changes).status_code == status
    assert choices(world) == before


def test_the_pages_show_ones_own_votes_only(voted: tuple[World, dict[str, Any]]) -> None:
    world, old = voted
    mine, other = world.log_in("annotator"), world.log_in("reviewer")
    page = mine.get("/votes").text
    assert page.index("2?") < page.index("1?"), "the latest first"
    assert f'href="/vote?id={old["vote_id"]}"' in page
    asked = mine.get(f"/vote?id={old['vote_id']}").text
    assert f"/api/votes/{old['vote_id']}/change" in asked
    assert "clear" in asked
    assert other.get("/votes").text.count("Change vote") == 0
    assert other.get(f"/vote?id={old['vote_id']}").status_code == 404
    assert mine.get("/vote?id=none").status_code == 404
