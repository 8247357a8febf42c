"""The queue as programs of an administrator see it, and the document that describes it."""

import json
from typing import Any

import pytest
from fastapi.routing import APIRoute

from mmrlhf_ray.feedback.app.documentation import document
from tests.unit.feedback.test_api import vote
from tests.unit.feedback.world import World, fill, pair


def items(world: World, **query: Any) -> list[str]:
    answer = world.call("admin", "GET", "/api/items", params=query)
    assert answer.status_code == 200, answer.text
    return [item["item_id"] for item in answer.json()["items"]]


def test_items_are_found_by_filters(world: World) -> None:
    fill(
        world.database,
        world.config,
        pair("哪个数字？", item_id="digit", task="digits", priority=1.0),
        pair("100% of_it", item_id="share", round=2),
        pair("gold", item_id="known", gold={"choice": "left"}),
        {"prompt": "HELLO", "question": "rate", "item_id": "rated", "responses": [{"text": "x", "source": "Model-A"}]},
    )
    assert items(world) == ["digit", "share", "known", "rated"], "as they are asked"
    for query, wanted in (
        ({"question": "rate"}, ["rated"]),
        ({"task": "digits"}, ["digit"]),
        ({"status": "gold"}, ["known"]),
        ({"status": "open"}, ["digit", "share", "rated"]),
        ({"round": 2}, ["share"]),
        ({"text": "数字"}, ["digit"]),
        ({"text": "hello"}, ["rated"]),
        ({"text": "model-a"}, ["rated"]),
        ({"text": "100%"}, ["share"]),
        ({"text": "of_"}, ["share"]),
        ({"text": "%"}, ["share"]),
        ({"text": "nothing"}, []),
    ):
        assert items(world, **query) == wanted, query
    vote(world, {"choice": "left"})
    vote(world, {"choice": "left"}, role="reviewer")
    assert items(world, status="done") == ["digit"]
    (found,) = world.call("admin", "GET", "/api/items?status=done").json()["items"]
    assert (found["votes"], found["overlap"], found["gold"]) == (2, 2, None)


def test_pages(world: World) -> None:
    fill(world.database, world.config, *(pair(f"{n}", item_id=f"{n:03}") for n in range(120)))
    for page, first, last, count in ((1, "000", "099", 100), (2, "100", "119", 20), (9, "100", "119", 20)):
        found = world.call("admin", "GET", f"/api/items?page={page}").json()
        assert (found["found"], found["pages"], found["page"]) == (120, 2, min(page, 2))
        assert [found["items"][0]["item_id"], found["items"][-1]["item_id"]] == [first, last]
        assert len(found["items"]) == count


def test_priority_and_overlap_are_changed(world: World) -> None:
    fill(world.database, world.config, pair("a", item_id="a"), pair("b", item_id="b"))
    answer = world.call("admin", "PATCH", "/api/items/b", json={"priority": 5.0, "overlap": 1})
    assert (answer.status_code, answer.json()["priority"], answer.json()["overlap"]) == (200, 5.0, 1)
    assert world.call("annotator", "POST", "/api/lease").json()["item_id"] == "b"
    assert world.call("admin", "PATCH", "/api/items/none", json={}).status_code == 404
    for wrong in ({"overlap": 0}, {"priority": "high"}, {"text": "x"}):
        assert world.call("admin", "PATCH", "/api/items/b", json=wrong).status_code == 422


def test_items_are_deleted_and_their_votes_only_if_that_is_said(world: World) -> None:
    fill(world.database, world.config, pair("a", item_id="a"), pair("b", item_id="b"))
    sent = vote(world, {"choice": "left"})
    refused = world.call("admin", "DELETE", "/api/items/a")
    assert (refused.status_code, refused.json()["field"]) == (409, "votes")
    assert items(world) == ["a", "b"]
    gone = world.call("admin", "DELETE", "/api/items/a?votes=true")
    assert (gone.status_code, gone.json()) == (200, {"item_id": "a", "votes": 1})
    assert items(world) == ["b"]
    assert world.call("admin", "GET", "/api/export").text == ""
    assert world.call("annotator", "POST", f"/api/votes/{sent['vote_id']}/undo").status_code == 404
    assert world.call("admin", "DELETE", "/api/items/b").status_code == 200
    assert world.call("admin", "DELETE", "/api/items/b").status_code == 404


def test_a_held_item_that_is_deleted_is_said_to_be_gone(world: World) -> None:
    fill(world.database, world.config, pair("a", item_id="a"))
    world.call("annotator", "POST", "/api/lease")
    world.call("admin", "DELETE", "/api/items/a")
    body = {"vote_id": "0b9d7f8e-3c55-4f0a-9d2b-6a1f4f1f7f10", "item_id": "a", "answer": {"choice": "left"}}
    assert world.call("annotator", "POST", "/api/votes", json=body).status_code == 404


def test_the_document_has_every_route_and_what_it_takes(world: World) -> None:
    made = world.call("annotator", "GET", "/api/openapi.json").json()
    assert made == json.loads(json.dumps(document(world.app)))
    routes = [route for route in world.app.routes if isinstance(route, APIRoute) and route.path.startswith("/api/")]
    for route in routes:
        for method in route.methods:
            operation = made["paths"][route.path_format][method.lower()]
            assert operation["description"], route.path
            takes = any(hasattr(need.call, "documented") for need in route.dependant.dependencies)
            assert takes == ("requestBody" in operation), route.path
    assert "requestBody" in made["paths"]["/api/votes"]["post"]
    item = made["components"]["schemas"]["NewItem"]
    assert [name for name, field in item["properties"].items() if "description" not in field] == []


def test_every_reference_of_the_document_leads_somewhere(world: World) -> None:
    made = document(world.app)

    def references(value: Any) -> list[str]:
        if isinstance(value, dict):
            own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
            return own + [found for part in value.values() for found in references(part)]
        return [found for part in value for found in references(part)] if isinstance(value, list) else []

    named = references(made)
    assert named
    assert {name.removeprefix("#/components/schemas/") for name in named} <= made["components"]["schemas"].keys()


def test_the_example_of_the_document_is_taken(world: World) -> None:
    example = document(world.app)["components"]["schemas"]["NewItem"]["examples"][0]
    plain = {key: value for key, value in example.items() if key != "media_ids"} | {"prompt": "Which colour?"}
    assert world.call("admin", "POST", "/api/items", json=[plain]).status_code == 201
    (found,) = world.call("admin", "GET", "/api/items").json()["items"]
    assert [response["source"] for response in found["responses"]] == ["policy-a", ""]


@pytest.mark.parametrize("query", ["question=quiz", "status=lost", "page=0", "page=x", "round=x"])
def test_filters_that_make_no_sense_are_refused(world: World, query: str) -> None:
    answer = world.call("admin", "GET", f"/api/items?{query}")
    assert (answer.status_code, answer.json()["field"]) == (422, query.partition("=")[0])
