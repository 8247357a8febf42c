"""Argilla and Label Studio: files as their users have them, both ways, and what cannot be expressed."""

import json
from xml.etree import ElementTree as ET

import pyarrow as pa
import pytest

from mmrlhf_ray.config import DataConfig
from mmrlhf_ray.data.formats import as_raw_row, as_written_row, format_named
from mmrlhf_ray.data.records.readers import read_records
from mmrlhf_ray.errors import DataError
from mmrlhf_ray.feedback.formats.argilla import ArgillaNames, argilla_datasets, argilla_files, read_argilla
from mmrlhf_ray.feedback.formats.label_studio import (
    LabelStudioNames,
    label_studio_config,
    label_studio_tasks,
    read_label_studio,
)
from mmrlhf_ray.feedback.labels.derive import derive_demonstrations, derive_preferences
from mmrlhf_ray.schema import PROMPT
from tests.unit.feedback.people import A, B, C, answered, pair, prompts

VOTES = [
    pair("left", who="ann", order=(1, 0), milliseconds=1234, prompt_id="pair", created="2026-01-01T00:00:00+00:00"),
    pair("both_bad", who="bob", prompt_id="pair", critique="Both invent a cat."),
    pair("tie", who="cem", order=(1, 0), prompt_id="pair", comment="Slow."),
    answered("rank", {"ranks": [3, 1, 2]}, who="ann", responses=(A, B, C), order=(2, 0, 1), prompt_id="rank"),
    answered("rate", {"ratings": [{"safe": 5, "fluent": None}, {"safe": 2, "fluent": 1}]}, prompt_id="rate", round=2),
    answered("correct", {"text": "gamma answer"}, responses=(A,), prompt_id="correct"),
    answered("demonstrate", {"text": "Seven."}, responses=(), prompt_id="demo", gold=True),
    answered("spans", {"spans": [[0, 5, ""], [6, 13, "not asked"]]}, responses=("🙂 ok what ever",), prompt_id="spans"),
    answered("critique", {"text": "Too short."}, responses=(A,), prompt_id="critique"),
]
ASKED = prompts(*dict.fromkeys(v.prompt_id for v in VOTES), extras='{"answer": "7"}')


def by_id(annotations):
    return {a.annotation_id: a for a in annotations}


def read_prompts(imported, tmp_path):
    file = tmp_path / "prompts.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in imported.prompts))
    return read_records(DataConfig(path=str(file)), PROMPT, tmp_path).records


def test_argilla_both_ways(tmp_path):
    datasets = argilla_datasets(VOTES, ASKED, {})
    assert [d.name for d in datasets] == [
        "pair_2", "rank_3", "rate_2", "correct_1", "demonstrate_0", "spans_1", "critique_1",
    ]  # fmt: skip
    records = json.loads(json.dumps([record for d in datasets for record in d.records]))
    imported = read_argilla(records)
    assert by_id(imported.annotations) == by_id(VOTES)
    assert sorted(row["prompt_id"] for row in imported.prompts) == sorted(ASKED["prompt_id"].to_pylist())
    back = read_prompts(imported, tmp_path)
    for column in ("messages", "task", "modality"):
        assert set(back[column].to_pylist()) == set(ASKED[column].to_pylist())


def test_label_studio_both_ways(tmp_path):
    tasks = json.loads(json.dumps(label_studio_tasks(VOTES, ASKED, {})))
    imported = read_label_studio(tasks)
    assert by_id(imported.annotations) == by_id(VOTES)
    back = read_prompts(imported, tmp_path)
    assert set(back["messages"].to_pylist()) == set(ASKED["messages"].to_pylist())


def test_media_are_named_and_shown_where_they_stood(tmp_path):
    parts = [{"type": "text", "text": "Is "}, {"type": "image"}, {"type": "text", "text": " a cat?"}]
    row = prompts("p").to_pylist()[0]
    row |= {"messages": json.dumps([{"role": "user", "content": parts}]), "media_ids": ["m1"], "modality": "image"}
    asked = pa.Table.from_pylist([row], schema=PROMPT)
    (dataset,) = argilla_datasets([pair("left")], asked, {"m1": "https://example.org/cat.png"})
    fields = dataset.records[0]["fields"]
    assert fields["messages"] == [{"role": "user", "content": "Is <image> a cat?"}]
    assert fields["image_0"] == "https://example.org/cat.png"
    assert [f["settings"]["type"] for f in dataset.settings["fields"]] == ["chat", "image", "text", "text"]
    (prompt,) = read_argilla(dataset.records).prompts
    assert (prompt["messages"][0]["content"], prompt["images"]) == (parts, ["https://example.org/cat.png"])
    (task,) = label_studio_tasks([pair("left")], asked, {"m1": "https://example.org/cat.png"})
    (prompt,) = read_label_studio([task]).prompts
    assert (prompt["messages"][0]["content"], prompt["images"]) == (parts, ["https://example.org/cat.png"])
    assert ET.fromstring(label_studio_config(task, "pair")).find("Image").get("value") == "$image_0"


def test_argilla_settings_ask_what_the_records_answer():
    for dataset in argilla_datasets(VOTES, ASKED, {}):
        asked = {question["name"] for question in dataset.settings["questions"]}
        for record in dataset.records:
            assert set(record["responses"]) <= asked
            assert set(record["fields"]) == {f["name"] for f in dataset.settings["fields"]}
        files = argilla_files(dataset)
        assert json.loads(files["records.json"]) == json.loads(json.dumps(dataset.records))
    pairs = argilla_datasets(VOTES, ASKED, {})[0]
    assert [o["value"] for o in pairs.settings["questions"][0]["settings"]["options"]] == [
        "response_0", "response_1", "tie", "both_bad",
    ]  # fmt: skip
    assert pairs.records[0]["responses"]["preference"] == [
        {"value": "response_1", "user_id": "ann"},
        {"value": "both_bad", "user_id": "bob"},
        {"value": "tie", "user_id": "cem"},
    ]


@pytest.mark.parametrize("kind", ["pair", "rank", "rate", "correct", "demonstrate", "spans", "critique"])
def test_label_studio_configurations_have_every_control(kind):
    votes = [v for v in VOTES if v.kind == kind]
    for task in label_studio_tasks(votes, ASKED, {}):
        view = ET.fromstring(label_studio_config(task, kind, ("safe", "fluent")))
        names = {element.get("name") for element in view}
        for element in view:
            assert (element.get("value") or "$messages")[1:] in task["data"]
            assert set(filter(None, (element.get("toName") or "").split(","))) <= names
        for annotation in task["annotations"]:
            for result in annotation["result"]:
                assert {result["from_name"], *result["to_name"].split(",")} <= names


# A data set of Argilla 2.x as its users have them: https://docs.argilla.io, "rg.Record", to_dict().
ARGILLA_2 = {
    "id": "7f2a",
    "status": "completed",
    "_server_id": "c0ffee00-0000-4000-8000-000000000001",
    "fields": {
        "instruction": "Write a haiku about rain.",
        "response1": "Rain on the window",
        "response2": "I cannot do that.",
        "context": None,
    },
    "metadata": {"source": "web"},
    "suggestions": {"preference": {"value": "response1", "score": 0.9, "agent": "judge"}},
    "responses": {
        "preference": [
            {"value": "response1", "user_id": "u1", "status": "submitted"},
            {"value": "response2", "user_id": "u2", "status": "draft"},
        ],
        "ranking": [{"value": ["response2", "response1"], "user_id": "u3"}],
        "quality": [{"value": 4, "user_id": "u1"}],
        "better": [{"value": "Rain falls on the roof", "user_id": "u1"}],
        "topic": [{"value": "poetry", "user_id": "u1"}],
    },
    "vectors": {},
}
MY_NAMES = ArgillaNames(
    prompt="instruction",
    responses=("response1", "response2"),
    questions={"preference": "pair", "ranking": "rank", "better": "correct"},
    ratings={"quality": ("helpful", 0)},
    choices={"response1": "left", "response2": "right"},
)


def test_an_argilla_data_set_with_names_of_its_own():
    imported = read_argilla([ARGILLA_2], MY_NAMES)
    assert imported.prompts == [
        {"prompt_id": "7f2a", "prompt": "Write a haiku about rain.", "extras": {"source": "web"}}
    ]
    assert imported.left_out == 1
    found = {(a.annotator_id, a.kind): a for a in imported.annotations}
    assert set(found) == {("u1", "pair"), ("u1", "correct"), ("u1", "rate"), ("u3", "rank")}
    assert found["u1", "pair"].ranks == (1, 2)
    assert found["u3", "rank"].ranks == (2, 1)
    assert found["u1", "rate"].aspects == {"helpful": (4, None)}
    assert found["u1", "correct"].text == "Rain falls on the roof"
    assert read_argilla([ARGILLA_2], MY_NAMES) == imported  # ids are those of the content
    assert len(by_id(imported.annotations)) == 4


def test_argilla_1_with_ties():
    record = {
        "fields": {"messages": "Which?", "response_0": "a", "response_1": "b", "response_2": "c"},
        "responses": [
            {
                "user_id": "u1",
                "status": "submitted",
                "values": {
                    "ranking": {
                        "value": [
                            {"value": "response_2", "rank": 1},
                            {"value": "response_0", "rank": 2},
                            {"value": "response_1", "rank": 2},
                        ]
                    }
                },
            },
            {"user_id": "u2", "status": "discarded", "values": None},
        ],
        "external_id": "ext-1",
    }
    imported = read_argilla([record])
    assert [(a.item_id, a.ranks, a.annotator_id) for a in imported.annotations] == [("ext-1", (2, 2, 1), "u1")]
    assert imported.left_out == 1


# An export of Label Studio's template "Pairwise Classification", and of its ranker.
LS_PAIR = {
    "id": 12,
    "data": {"prompt": "Summarise.", "text1": "Short.", "text2": "Long-winded.", "doc": "d7"},
    "annotations": [
        {
            "id": 1001,
            "completed_by": {"id": 3, "email": "ann@example.org"},
            "was_cancelled": False,
            "ground_truth": False,
            "created_at": "2026-03-09T22:16:08.728353Z",
            "lead_time": 4.288,
            "result": [
                {
                    "id": "Dx_aB91ISN",
                    "from_name": "pw",
                    "to_name": "text1,text2",
                    "type": "pairwise",
                    "origin": "manual",
                    "value": {"selected": "right"},
                }
            ],
        },
        {"id": 1002, "completed_by": 4, "was_cancelled": True, "result": []},
    ],
    "predictions": [{"result": [{"from_name": "pw", "type": "pairwise", "value": {"selected": "left"}}]}],
}
LS_RANK = {
    "id": 13,
    "data": {
        "prompt": "Pick.",
        "items": [{"id": "llm_1", "title": "One", "body": "a"}, {"id": "llm_2", "title": "Two", "body": "b"}],
    },
    "annotations": [
        {
            "completed_by": 5,
            "result": [
                {"from_name": "rank", "type": "ranker", "value": {"ranker": {"_": [], "best": ["llm_2", "llm_1"]}}}
            ],
        }
    ],
}


def test_a_label_studio_export_with_names_of_its_own():
    imported = read_label_studio(
        [LS_PAIR], LabelStudioNames(prompt="prompt", responses=("text1", "text2"), controls={"pw": "pair"})
    )
    assert imported.prompts == [{"prompt_id": "12", "prompt": "Summarise.", "extras": {"doc": "d7"}}]
    (made,) = imported.annotations
    assert (made.annotator_id, made.choice, made.ranks) == ("ann@example.org", "right", (2, 1))
    assert (made.milliseconds, made.created, imported.left_out) == (4288, "2026-03-09T22:16:08.728353Z", 1)


def test_a_label_studio_ranker():
    (made,) = read_label_studio([LS_RANK], LabelStudioNames(prompt="prompt", controls={"rank": "rank"})).annotations
    assert (made.responses, made.ranks) == (("a", "b"), (2, 1))


@pytest.mark.parametrize("offsets", [(3, 5), (2, 4)])
def test_spans_are_found_in_both_ways_of_counting(offsets):
    """Browsers count 🙂 as two."""
    value = {"start": offsets[0], "end": offsets[1], "text": "ok", "labels": ["wrong"]}
    task = {
        "data": {"messages": "Q", "response_0": "🙂 ok what"},
        "annotations": [{"completed_by": 1, "result": [{"from_name": "spans", "type": "labels", "value": value}]}],
    }
    (made,) = read_label_studio([task]).annotations
    assert made.spans == ((2, 4, ""),)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fields": {"text": "x"}}, "no field 'instruction'"),
        ({"fields": {"instruction": "x", "response1": "y"}}, "'response2' is not a text"),
        ({"responses": {"preference": [{"value": "neither", "user_id": "u"}]}}, "choice is 'neither'"),
        ({"responses": {"ranking": [{"value": ["response1"], "user_id": "u"}]}}, "expected each of"),
        ({"fields": ARGILLA_2["fields"] | {"instruction": 7}}, "expected text or a list"),
    ],
)
def test_argilla_records_that_cannot_be_read_are_named(change, message):
    with pytest.raises(DataError, match=f"argilla record 0 \\(7f2a\\): .*{message}"):
        read_argilla([ARGILLA_2 | change], MY_NAMES)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ({"from_name": "pw", "value": {"selected": "up"}}, r"answered \['up'\]"),
        ({"from_name": "rank", "value": {"ranker": ["text1", "text1"]}}, "expected each of"),
        ({"from_name": "spans", "value": {"start": 0, "end": 2, "text": "no"}}, "spans of 2 responses"),
    ],
)
def test_label_studio_tasks_that_cannot_be_read_are_named(result, message):
    names = LabelStudioNames("prompt", ("text1", "text2"), controls={"pw": "pair", "rank": "rank", "spans": "spans"})
    task = LS_PAIR | {"annotations": [{"completed_by": 1, "result": [result]}]}
    with pytest.raises(DataError, match=f"label_studio task 0 \\(12\\): .*{message}"):
        read_label_studio([task], names)


def test_a_span_whose_text_moved_is_refused():
    value = {"start": 0, "end": 2, "text": "no", "labels": ["wrong"]}
    task = {
        "data": {"messages": "Q", "response_0": "yes"},
        "annotations": [{"completed_by": 1, "result": [{"from_name": "spans", "type": "labels", "value": value}]}],
    }
    with pytest.raises(DataError, match="does not hold 'no'"):
        read_label_studio([task])


@pytest.mark.parametrize("write", [argilla_datasets, label_studio_tasks])
def test_what_cannot_be_expressed_is_refused(write):
    tied = answered("rank", {"ranks": [1, 1, 2]}, responses=(A, B, C))
    with pytest.raises(DataError, match="cannot express the tie"):
        write([tied], prompts(), {})
    with pytest.raises(DataError, match="answered twice"):
        write([pair("left"), pair("left")], prompts(), {})
    with pytest.raises(DataError, match="differ in prompt, kind or responses"):
        write([pair("left"), pair("left", who="b", responses=(A, C))], prompts(), {})
    with pytest.raises(DataError, match="is unknown"):
        write([pair("left", prompt_id="q")], prompts(), {})
    tagged = prompts().to_pylist()[0]
    tagged["messages"] = json.dumps([{"role": "user", "content": [{"type": "text", "text": "What is <image>?"}]}])
    with pytest.raises(DataError, match="<image>"):
        write([pair("left")], pa.Table.from_pylist([tagged], schema=PROMPT), {})


def test_argilla_has_no_sound():
    row = prompts().to_pylist()[0]
    row["messages"] = json.dumps([{"role": "user", "content": [{"type": "audio"}, {"type": "text", "text": "Who?"}]}])
    row |= {"media_ids": ["m"], "modality": "audio"}
    asked = pa.Table.from_pylist([row], schema=PROMPT)
    with pytest.raises(DataError, match="sound or video"):
        argilla_datasets([pair("left")], asked, {"m": "https://example.org/a.wav"})
    assert label_studio_tasks([pair("left")], asked, {"m": "https://example.org/a.wav"})[0]["data"]["audio_0"]


@pytest.mark.parametrize("name", ["trl", "ms_swift", "rlaif_v"])
def test_training_formats_keep_the_source(name):
    """Through derive: what TRL, ms-swift and RLAIF-V are given says which annotations it comes from."""
    form = format_named(name)
    votes = [pair("left", annotation_id="v1")]
    (row,) = derive_preferences(votes, prompts()).to_pylist()
    row["margin"] = 0.0  # RLAIF-V has none
    written = as_written_row(row, form, "PREFERENCE", {})
    raw = as_raw_row(json.loads(json.dumps(written)), form, "PREFERENCE")
    assert (raw["chosen"], raw["rejected"]) == (A, B)
    assert raw["extras"]["annotated"]["annotation_ids"] == ["v1"]


def test_demonstrations_go_to_trl():
    made = answered("correct", {"text": "Seven."}, responses=(A,), annotation_id="c1")
    (row,) = derive_demonstrations([made], prompts()).to_pylist()
    written = as_written_row(row, format_named("trl"), "DEMONSTRATION", {})
    assert written["label"] is True
    assert written["annotated"]["corrected"] == A
