"""Responses of several turns: put into the queue, shown, voted on, exported and derived."""

import hashlib
import json
from typing import Any

import pytest

from mmrlhf_ray.demo.digits import digit_png
from mmrlhf_ray.feedback.annotations import annotations_of, annotations_table
from mmrlhf_ray.feedback.collect.export import annotations_table as exported
from mmrlhf_ray.feedback.collect.export import prompts_table
from mmrlhf_ray.feedback.episodes import EpisodeTurn, transcript
from mmrlhf_ray.feedback.formats.label_studio import label_studio_tasks, read_label_studio
from mmrlhf_ray.feedback.labels.derive import ORIGIN, derive_preferences
from tests.unit.feedback.test_api import vote
from tests.unit.feedback.world import World

PNG = digit_png(4)
MEDIA_ID = hashlib.sha256(PNG).hexdigest()
LOOKS: list[dict[str, Any]] = [
    {"kind": "response", "text": "crop 0 0 1 1"},
    {"kind": "observation", "text": "here it is", "media_ids": [MEDIA_ID]},
    {"kind": "response", "text": "It is a four."},
]
GUESSES: list[dict[str, Any]] = [{"kind": "response", "text": "It is a four."}]


@pytest.fixture
def seen(world: World) -> World:
    """The app with the picture that the first episode is shown."""
    stored = world.call("admin", "PUT", f"/api/media/{MEDIA_ID}", content=PNG, params={"kind": "image"})
    assert stored.status_code == 201
    return world


def add(world: World, *responses: Any) -> Any:
    row = {"prompt": "Which digit?", "question": "pair", "responses": list(responses), "item_id": "e"}
    return world.call("admin", "POST", "/api/items", json=[row])


def test_the_transcript_tells_episodes_apart() -> None:
    turns = [EpisodeTurn("response", "a"), EpisodeTurn("observation", "b\nc"), EpisodeTurn("response", "d")]
    assert transcript(turns) == "a\n\n> b\n> c\n\nd"
    assert transcript(turns[:1]) == "a"
    assert transcript([EpisodeTurn("observation", ""), *turns[2:]]) == "d"


def test_an_episode_is_shown_voted_on_and_derived(seen: World) -> None:
    assert add(seen, {"turns": LOOKS, "source": "policy"}, {"turns": GUESSES}).status_code == 201
    leased = seen.call("annotator", "POST", "/api/lease").json()
    place = leased["order_shown"].index(0)
    assert [turn["text"] for turn in leased["turns"][place]] == [turn["text"] for turn in LOOKS]
    assert "policy" not in json.dumps(leased)
    page = seen.log_in("annotator").get("/work").text
    assert f'src="/media/{MEDIA_ID}"' in page
    assert page.count("The model</h3>") == 3
    assert page.count("It was shown</h3>") == 1
    vote(seen, {"choice": ("left", "right")[place]})
    with seen.database.read() as session:
        made, prompts = annotations_of(exported(session)), prompts_table(session)
    (annotation,) = made
    assert annotation.responses == ("crop 0 0 1 1\n\n> here it is\n\nIt is a four.", "It is a four.")
    assert annotation.turns[0][1] == EpisodeTurn("observation", "here it is", (MEDIA_ID,))
    assert annotations_of(annotations_table(made)) == made
    (row,) = derive_preferences(made, prompts).to_pylist()
    assert (row["chosen"], row["rejected"]) == annotation.responses
    turns = json.loads(row["extras"])[ORIGIN]["turns"]
    assert [turn["kind"] for turn in turns["chosen"]] == ["response", "observation", "response"]
    assert turns["chosen"][1]["media_ids"] == [MEDIA_ID]
    tasks = json.loads(json.dumps(label_studio_tasks(made, prompts, {})))
    assert read_label_studio(tasks).annotations == made
    for path in ("/admin/item?id=e",):
        assert f'src="/media/{MEDIA_ID}"' in seen.log_in("admin").get(path).text
    (item,) = seen.call("admin", "GET", "/api/items").json()["items"]
    assert add(seen, *item["responses"]).json() == {"added": 0, "present": 1, "item_ids": ["e"]}


def test_responses_of_one_turn_have_no_turns(world: World) -> None:
    assert add(world, "a", {"text": "b"}).status_code == 201
    vote(world, {"choice": "left"})
    with world.database.read() as session:
        (annotation,) = annotations_of(exported(session))
    assert annotation.turns == ()


@pytest.mark.parametrize(
    ("response", "field"),
    [
        ({"turns": []}, "responses[0].turns"),
        ({"turns": "x"}, "responses[0].turns"),
        ({"turns": [3]}, "responses[0].turns[0]"),
        ({"turns": [{"kind": "guess", "text": "x"}]}, "responses[0].turns[0].kind"),
        ({"turns": [{"kind": "response", "text": "x", "reward": 1}]}, "responses[0].turns[0]"),
        ({"turns": [{"kind": "response", "text": "x", "media_ids": ["none"]}]}, "responses[0].turns[0]"),
        ({"turns": LOOKS[:2]}, "responses[0].turns"),
        ({"turns": [{"kind": "response", "text": " "}]}, "responses[0].turns"),
        ({"turns": [{"kind": "response", "text": "x"}] * 201}, "responses[0].turns"),
        ({"turns": GUESSES, "text": "something else"}, "responses[0].text"),
    ],
)
def test_what_is_no_episode_is_named(seen: World, response: Any, field: str) -> None:
    answer = add(seen, response, "b")
    assert (answer.status_code, answer.json()["field"]) == (422, f"items[0].{field}")
