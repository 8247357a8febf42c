"""What a model would answer: kept apart, shown only if wanted, never a vote."""

import json
from dataclasses import replace
from typing import Any

import pytest

from mmrlhf_ray.feedback.collect.suggestions import as_shown
from tests.unit.feedback.test_api import vote
from tests.unit.feedback.world import World, pair

RIGHT = {"answer": {"choice": "right"}, "source": "reward model r"}


@pytest.fixture
def shown(world: World) -> World:
    state = world.app.state
    state.feedback = replace(state.feedback, config=world.config.model_copy(update={"suggestions": "shown"}))
    return world


def add(world: World, *rows: dict[str, Any]) -> Any:
    return world.call("admin", "POST", "/api/items", json=list(rows))


def exported(world: World, format: str) -> list[dict[str, Any]]:
    text = world.call("admin", "GET", f"/api/export?format={format}").text
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize(
    ("answer", "order", "wanted"),
    [
        ({"choice": "left"}, [0, 1], {"choice": "left"}),
        ({"choice": "left"}, [1, 0], {"choice": "right"}),
        ({"choice": "tie", "critique": ""}, [1, 0], {"choice": "tie"}),
        ({"ranks": [1, 2, 3]}, [2, 0, 1], {"ranks": [3, 1, 2]}),
        ({"ratings": [{"a": 1}, {"a": None}]}, [1, 0], {"ratings": [{"a": None}, {"a": 1}]}),
        ({"spans": [[0, 1, ""]], "comment": "so"}, [0], {"spans": [[0, 1, ""]], "comment": "so"}),
    ],
)
def test_the_answer_is_about_what_is_shown(answer: dict[str, Any], order: list[int], wanted: dict[str, Any]) -> None:
    assert as_shown(answer, order) == wanted


def test_a_hidden_suggestion_is_on_no_page(world: World) -> None:
    assert add(world, pair(suggestion=RIGHT)).status_code == 201
    assert world.call("annotator", "POST", "/api/lease").json()["suggestion"] is None
    page = world.call("annotator", "GET", "/work").text
    assert "reward model r" not in page
    assert 'id="suggestion"' not in page
    (row,) = exported(world, "suggestions")
    assert (row["answer"]["choice"], row["source"], row["seen_by"]) == ("right", "reward model r", [])


def test_a_shown_suggestion_is_no_vote_and_says_who_saw_it(shown: World) -> None:
    add(shown, pair(item_id="a", suggestion=RIGHT), pair("r", item_id="b"))
    leased = shown.call("annotator", "POST", "/api/lease").json()
    side = "left" if leased["order_shown"] == [1, 0] else "right"
    assert leased["suggestion"] == {"source": "reward model r", "answer": {"choice": side}}
    assert "There is a suggestion by reward model r." in shown.call("annotator", "GET", "/work").text
    assert exported(shown, "annotations") == []
    (item, _) = shown.call("admin", "GET", "/api/items").json()["items"]
    assert item["votes"] == 0
    vote(shown, {"choice": "tie"})
    (row,) = exported(shown, "annotations")
    assert row["choice"] == "tie"
    who = row["annotator_id"]
    assert [row["seen_by"] for row in exported(shown, "suggestions")] == [[who]]
    assert shown.call("annotator", "POST", "/api/lease").json()["suggestion"] is None, "the next item has none"
    kept = shown.call("admin", "GET", f"/api/annotators/{who}/data").json()
    assert [seen["item_id"] for seen in kept["suggestions_seen"]] == ["a"]
    shown.call("admin", "DELETE", f"/api/annotators/{who}/data")
    assert [row["seen_by"] for row in exported(shown, "suggestions")] == [[]]
    assert shown.call("admin", "DELETE", "/api/items/a").status_code == 200
    assert exported(shown, "suggestions") == []


@pytest.mark.parametrize(
    ("suggestion", "field"),
    [
        ({"answer": {"choice": "left"}}, "suggestion"),
        ("left", "suggestion"),
        ({"answer": {"choice": "up"}, "source": "m"}, "suggestion.answer.choice"),
        ({"answer": {"choice": "left"}, "source": ""}, "suggestion.source"),
    ],
)
def test_suggestions_that_make_no_sense_are_refused(world: World, suggestion: Any, field: str) -> None:
    answer = add(world, pair(suggestion=suggestion))
    assert (answer.status_code, answer.json()["field"]) == (422, f"items[0].{field}")
    assert world.call("admin", "GET", "/api/items").json()["found"] == 0
