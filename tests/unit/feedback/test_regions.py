"""Places that an answer points at: from the vote to the export, the records, and other tools."""

import json
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest

from mmrlhf_ray.data.encoding.encode import facts_of
from mmrlhf_ray.errors import DataError
from mmrlhf_ray.feedback.annotations import Annotation, annotations_of, annotations_table
from mmrlhf_ray.feedback.collect.suggestions import as_shown
from mmrlhf_ray.feedback.formats.argilla import argilla_datasets, read_argilla
from mmrlhf_ray.feedback.formats.label_studio import label_studio_config, label_studio_tasks, read_label_studio
from mmrlhf_ray.feedback.labels.derive import ORIGIN, derive_demonstrations, derive_preferences, derive_rankings
from mmrlhf_ray.feedback.labels.evidence import REGION_FACTS
from mmrlhf_ray.feedback.questions import AnswerError, Asked, question_of
from mmrlhf_ray.feedback.regions import Region
from mmrlhf_ray.schema import PROMPT
from tests.unit.feedback.people import A, B, C, answered, pair, prompts

ASKED = Asked(
    responses=("one 🙂 two", "three"),
    aspects=("helpful", "grounded"),
    max_text_chars=50,
    media=("image", "audio", "video"),
    max_seconds=10.0,
)
BOX: dict[str, Any] = {"kind": "box", "index": 0, "extent": [0.1, 0.2, 0.3, 0.4]}
RANGE: dict[str, Any] = {"kind": "range", "index": 1, "extent": [1, 2.5], "aspect": "grounded", "note": "a high tone"}
CLIP: dict[str, Any] = {"kind": "range", "index": 2, "extent": [0, 0.5]}
TEXT: dict[str, Any] = {"kind": "text", "index": 0, "extent": [4, 5], "note": "smile"}
CLAIM: dict[str, Any] = BOX | {"claim": [1, 0, 5], "note": "is a four"}


def checked(*regions: Any) -> tuple[Region, ...]:
    return question_of("pair").check({"choice": "left", "regions": list(regions)}, ASKED).regions


def test_regions_of_every_kind_are_taken() -> None:
    assert checked(BOX, RANGE, CLIP, TEXT, CLAIM) == (
        Region("box", 0, (0.1, 0.2, 0.3, 0.4)),
        Region("range", 1, (1.0, 2.5), "grounded", None, "a high tone"),
        Region("range", 2, (0.0, 0.5)),
        Region("text", 0, (4, 5), "", None, "smile"),
        Region("box", 0, (0.1, 0.2, 0.3, 0.4), "", (1, 0, 5), "is a four"),
    )
    assert checked() == ()


def test_a_box_up_to_the_edge_ends_at_the_edge() -> None:
    (region,) = checked(BOX | {"extent": [0.7, 0.6, 0.3 + 1e-9, 0.4]})
    assert region.extent[0] + region.extent[2] <= 1


@pytest.mark.parametrize("kind", ["rank", "rate", "correct", "demonstrate", "spans", "critique", "live"])
def test_answers_of_every_kind_may_point_at_places(kind: str) -> None:
    answers = {
        "rank": {"ranks": [1, 2]},
        "rate": {"ratings": [{"helpful": 1}, {}]},
        "spans": {"spans": []},
        "live": {"presses": [[1, 1, 1]]},
    }
    answer = answers.get(kind, {"text": "x"})
    assert question_of(kind).check(answer | {"regions": [BOX]}, ASKED).regions == checked(BOX)


@pytest.mark.parametrize(
    ("region", "field"),
    [
        (3, "regions[0]"),
        (BOX | {"colour": 1}, "regions[0].colour"),
        (BOX | {"kind": "circle"}, "regions[0].kind"),
        (BOX | {"kind": ["box"]}, "regions[0].kind"),
        (BOX | {"index": 3}, "regions[0].index"),
        (BOX | {"index": 1}, "regions[0].kind"),
        (RANGE | {"index": 0}, "regions[0].kind"),
        (BOX | {"extent": [0, 0, 1]}, "regions[0].extent"),
        (BOX | {"extent": [0.8, 0, 0.3, 1]}, "regions[0].extent"),
        (BOX | {"extent": [-0.1, 0, 0.3, 1]}, "regions[0].extent[0]"),
        (BOX | {"extent": [0, 0, 0, 1]}, "regions[0].extent[2]"),
        (BOX | {"extent": [0, 0, float("nan"), 1]}, "regions[0].extent[2]"),
        (BOX | {"extent": [0, 0, True, 1]}, "regions[0].extent[2]"),
        (RANGE | {"extent": [2, 2]}, "regions[0].extent"),
        (RANGE | {"extent": [2, 1]}, "regions[0].extent"),
        (RANGE | {"extent": [2, 11]}, "regions[0].extent[1]"),
        (TEXT | {"extent": [4, 4]}, "regions[0].extent"),
        (TEXT | {"extent": [4, 10]}, "regions[0].extent[1]"),
        (TEXT | {"extent": [4.0, 5]}, "regions[0].extent[0]"),
        (TEXT | {"index": 2}, "regions[0].index"),
        (TEXT | {"note": "x" * 51}, "regions[0].note"),
        (BOX | {"aspect": "funny"}, "regions[0].aspect"),
        (BOX | {"aspect": ["grounded"]}, "regions[0].aspect"),
        (BOX | {"claim": [1, 0]}, "regions[0].claim"),
        (BOX | {"claim": [1, 0, 6]}, "regions[0].claim[1]"),
        (BOX | {"claim": [2, 0, 1]}, "regions[0].claim[0]"),
    ],
)
def test_what_makes_no_sense_is_named(region: Any, field: str) -> None:
    with pytest.raises(AnswerError) as caught:
        checked(region)
    assert caught.value.field == field


def test_no_more_than_fifty() -> None:
    assert len(checked(*[BOX] * 50)) == 50
    with pytest.raises(AnswerError, match="at most 50"):
        checked(*[BOX] * 51)


def with_regions(*regions: dict[str, Any], **columns: Any) -> Annotation:
    return pair_with({"choice": "left", "regions": list(regions)}, **columns)


def pair_with(answer: dict[str, Any], **columns: Any) -> Annotation:
    return answered("pair", answer, **columns)


ON_FIRST: dict[str, Any] = TEXT | {"extent": [0, 5]}


def test_the_order_shown_is_undone_for_marks_and_claims() -> None:
    made = with_regions(ON_FIRST, CLAIM, order=(1, 0))
    assert [region.responses for region in made.regions] == [(1,), (0,)]
    assert annotations_of(annotations_table([made])) == [made]


def test_a_suggestion_is_shown_in_the_order_shown() -> None:
    shown = as_shown({"choice": "left", "regions": [ON_FIRST, CLAIM]}, (2, 0, 1))
    assert [(region["kind"], region["index"], region["claim"]) for region in shown["regions"]] == [
        ("text", 1, None),
        ("box", 0, (2, 0, 5)),
    ]


@pytest.mark.parametrize("text", ["[3]", '[{"kind": "box"}]', "{", '[{"kind": "text", "index": 9, "extent": [0, 1]}]'])
def test_tables_with_regions_that_make_no_sense_are_refused(text: str) -> None:
    table = annotations_table([with_regions(BOX)])
    place = table.column_names.index("regions")
    with pytest.raises(DataError, match="regions"):
        annotations_of(table.set_column(place, table.field(place), pa.array([text])))


def test_regions_reach_a_preference_and_its_facts() -> None:
    votes = [
        with_regions(ON_FIRST, CLAIM, order=(1, 0), annotation_id="a1"),  # shown first: B, which wins
        pair("left", annotation_id="a2", who="bob", order=(1, 0)),
    ]
    (row,) = derive_preferences(votes, prompts()).to_pylist()
    assert (row["chosen"], row["rejected"]) == (B, A)
    extras = json.loads(row["extras"])
    marked, box = extras[ORIGIN]["regions"]
    assert marked == {
        "annotation_id": "a1",
        "kind": "text",
        "response": "chosen",
        "extent": [0, 5],
        "aspect": "",
        "claim": None,
        "note": "smile",
    }
    assert (box["medium"], box["claim"]) == (0, ["rejected", 0, 5])
    assert facts_of(row["extras"], REGION_FACTS) == 'medium 1, box at 10% 20%, size 30% 40% ("alpha"): is a four'


def test_what_nobody_points_at_has_empty_facts() -> None:
    (row,) = derive_preferences([pair("left")], prompts()).to_pylist()
    assert facts_of(row["extras"], REGION_FACTS) == ""
    assert "regions" not in json.loads(row["extras"])[ORIGIN]
    with pytest.raises(DataError, match="rename that key"):
        derive_preferences([pair("left")], prompts(extras='{"region_facts": 1}'))


def test_regions_reach_rankings_and_demonstrations() -> None:
    ranked = answered("rank", {"ranks": [2, 1, 3], "regions": [ON_FIRST, RANGE]}, responses=(A, B, C), order=(2, 0, 1))
    (row,) = derive_rankings([ranked], prompts()).to_pylist()
    extras = json.loads(row["extras"])
    assert [region.get("response") for region in extras[ORIGIN]["regions"]] == [2, None]
    assert extras[REGION_FACTS] == "medium 2, 1.00-2.50 s (grounded): a high tone"
    written = answered("demonstrate", {"text": "Seven.", "regions": [BOX]}, responses=())
    (row,) = derive_demonstrations([written], prompts()).to_pylist()
    assert json.loads(row["extras"])[ORIGIN]["regions"][0]["medium"] == 0


MEDIA = {"m1": "a.png", "m2": "b.wav", "m3": "c.webm"}


def shown_media() -> pa.Table:
    parts = [{"type": "audio"}, {"type": "image"}, {"type": "video"}, {"type": "text", "text": "What?"}]
    row = prompts("p").to_pylist()[0]
    messages = json.dumps([{"role": "user", "content": parts}])
    row |= {"messages": messages, "media_ids": ["m2", "m1", "m3"], "modality": "image+audio+video"}
    return pa.Table.from_pylist([row], schema=PROMPT)


VOTE = with_regions(
    BOX | {"index": 1, "aspect": "grounded", "note": "here"},
    RANGE | {"index": 0},
    CLIP,
    TEXT | {"claim": [1, 0, 4]},
    BOX | {"index": 1},
    order=(1, 0),
    who="ann",
)


def test_label_studio_takes_boxes_ranges_and_text_and_gives_them_back() -> None:
    (task,) = json.loads(json.dumps(label_studio_tasks([VOTE], shown_media(), MEDIA)))
    results = task["annotations"][0]["result"]
    by_type = {result["type"]: result for result in results}
    assert by_type["rectanglelabels"]["to_name"] == "image_0"
    value = next(result["value"] for result in results if result["type"] == "rectanglelabels")
    assert [round(value[name], 6) for name in ("x", "y", "width", "height")] == [10, 20, 30, 40]
    assert value["rectanglelabels"] == ["grounded"]
    sound = next(result for result in results if result["to_name"] == "audio_0" and result["type"] == "labels")
    assert (sound["value"]["start"], sound["value"]["end"], sound["value"]["labels"]) == (1, 2.5, ["grounded"])
    assert not any(result["to_name"] == "video_0" for result in results)
    assert read_label_studio([task]).annotations == [VOTE]
    view = label_studio_config(task, "pair", ("grounded",))
    for result in results:
        assert f'name="{result["from_name"]}"' in view


def test_what_is_changed_in_label_studio_comes_back_changed() -> None:
    (task,) = json.loads(json.dumps(label_studio_tasks([VOTE], shown_media(), MEDIA)))
    results = task["annotations"][0]["result"]
    box = next(result for result in results if result["type"] == "rectanglelabels")
    box["value"]["x"] = 0
    sound = next(result for result in results if result["to_name"] == "audio_0" and result["type"] == "labels")
    task["annotations"][0]["result"] = [result for result in results if result["id"] != sound["id"]]
    (back,) = read_label_studio([task]).annotations
    first, second, *others = sorted(back.regions, key=lambda region: (region.kind, region.extent))
    assert (first.extent[0], first.aspect, first.note) == (0, "grounded", "here")
    assert (second.kind, second.aspect) == ("box", "")
    assert [(region.kind, region.claim) for region in others] == [("range", None), ("text", (0, 0, 4))]


def test_argilla_takes_marked_text_and_the_rest_travels_along() -> None:
    prompt = prompts("p")
    vote = replace(VOTE, regions=tuple(region for region in VOTE.regions if region.kind == "text"))
    (dataset,) = argilla_datasets([vote], prompt, {})
    (record,) = json.loads(json.dumps(dataset.records))
    assert record["responses"]["regions_response_1"] == [
        {"value": [{"start": 4, "end": 5, "label": "vote"}], "user_id": "ann"}
    ]
    asked = {question["name"]: question["settings"] for question in dataset.settings["questions"]}
    assert asked["regions_response_1"]["field"] == "response_1"
    assert read_argilla([record]).annotations == [vote]
    record["responses"]["regions_response_1"][0]["value"][0]["end"] = 7
    (changed,) = read_argilla([record]).annotations
    assert changed.regions == (Region("text", 1, (4, 7)),)


def test_argilla_keeps_boxes_that_it_cannot_show() -> None:
    parts = [{"type": "image"}, {"type": "text", "text": "What?"}]
    row = prompts("p").to_pylist()[0]
    row |= {"messages": json.dumps([{"role": "user", "content": parts}]), "media_ids": ["m1"], "modality": "image"}
    vote = with_regions(CLAIM)
    (dataset,) = argilla_datasets([vote], pa.Table.from_pylist([row], schema=PROMPT), MEDIA)
    assert read_argilla(json.loads(json.dumps(dataset.records))).annotations == [vote]
