"""One row to one record, or the reason why not."""

import json

import pytest

from mmrlhf_ray.data.errors import RowError
from mmrlhf_ray.data.validate import (
    MAX_DEPTH,
    MediaPart,
    Shown,
    build_record,
    conversation,
    parse_json,
    same_prompt,
)
from mmrlhf_ray.schema import DEMONSTRATION, PREFERENCE, PROMPT, RANKING

USER = {"role": "user", "content": "Hello"}


def record(raw, schema=PROMPT, media_ids=(), **kwargs):
    messages, parts = conversation(raw)
    ids = media_ids or [f"m{i}" for i in range(len(parts))]
    shown = [Shown(part.kind, i, i) for part, i in zip(parts, ids, strict=True)]
    return build_record(raw, schema, messages, shown, **kwargs)


# Conversations


def test_text_becomes_parts_for_users_and_stays_text_for_others():
    messages, parts = conversation(
        {
            "messages": [
                {"role": "system", "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}]},
                USER,
                {"role": "assistant", "content": "Hi"},
                {"role": "user", "content": [{"type": "image", "image": "a.png", "text": None}, {"type": "audio"}]},
            ]
        }
    )
    assert messages == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hello"}]},
        {"role": "assistant", "content": "Hi"},
        {"role": "user", "content": [{"type": "image"}, {"type": "audio"}]},
    ]
    assert parts == [MediaPart("image", "a.png"), MediaPart("audio", None)]


def test_messages_may_be_json_text():
    assert conversation({"messages": json.dumps([USER])}) == conversation({"messages": [USER]})


def test_prompt_without_placeholders_shows_media_before_the_text():
    messages, parts = conversation({"prompt": "What?", "audios": ["s.wav"], "images": ["a.png", "b.png"]})
    kinds = ["image", "image", "audio"]
    assert messages[0]["content"] == [*({"type": kind} for kind in kinds), {"type": "text", "text": "What?"}]
    assert [part.kind for part in parts] == kinds


def test_prompt_with_placeholders_shows_media_there():
    messages, _ = conversation({"prompt": "<image> or <image>, and <audio>?"})
    types = [part.get("text", part["type"]) for part in messages[0]["content"]]
    assert types == ["image", " or ", "image", ", and ", "audio", "?"]


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ({}, "expected messages or prompt, got neither"),
        ({"messages": [USER], "prompt": "a"}, "got both"),
        ({"prompt": 3}, "prompt is a int, expected text"),
        ({"prompt": ""}, r"messages\[0\].content is empty"),
        ({"prompt": "a", "images": "a.png"}, "images is a str, expected a list"),
        ({"prompt": "a", "images": [1]}, r"images\[0\] is a int"),
        ({"prompt": "half \ud83d"}, "prompt holds half a character at 5"),
        ({"messages": []}, "messages is empty"),
        ({"messages": "{"}, "messages is not JSON"),
        ({"messages": ["a"]}, r"messages\[0\] is a str"),
        ({"messages": [{"role": "user"}]}, r"messages\[0\] is \['role'\]"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "role is 'tool'"),
        ({"messages": [USER, {"role": "system", "content": "a"}, USER]}, r"messages\[1\].role is 'system'"),
        ({"messages": [USER, {"role": "assistant", "content": "a"}]}, "the last message is from assistant"),
        ({"messages": [{"role": "user", "content": 3}]}, "content is a int"),
        ({"messages": [{"role": "user", "content": []}]}, "content is empty"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": ""}]}]}, "content is empty"),
        ({"messages": [{"role": "user", "content": ["a"]}]}, r"content\[0\] has no type"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "type 'image_url', expected one of"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, r"content\[0\] has keys \['type'\]"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "url": "a"}]}]}, r"keys \['type', 'url'\]"),
        ({"messages": [{"role": "system", "content": [{"type": "image"}]}, USER]}, r"\(system\) shows a image"),
    ],
)
def test_bad_conversations(raw, reason):
    with pytest.raises(RowError, match=reason):
        conversation(raw)


# Records


def test_defaults():
    row = record({"prompt": "Hello"})
    assert row["task"] == "default"
    assert row["modality"] == "text"
    assert row["extras"] == "{}"
    assert json.loads(row["messages"]) == [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}]
    assert len(row["prompt_id"]) == 32


def test_prompt_id_follows_the_content_and_not_the_form():
    same = [record({"prompt": "Hello"}), record({"messages": [USER]})]
    assert same[0]["prompt_id"] == same[1]["prompt_id"]
    others = [
        record({"prompt": "Hello!"}),
        record({"prompt": "Hello", "task": "t"}),
        record({"prompt": "<image>Hello"}, media_ids=["m1"]),
        record({"prompt": "<image>Hello"}, media_ids=["m2"]),
    ]
    assert len({row["prompt_id"] for row in [*same, *others]}) == 5


def test_facts_make_another_prompt_only_where_the_prompt_is_all_there_is():
    for schema, same in ((PROMPT, False), (DEMONSTRATION, True)):
        a, b = (record({"prompt": "a", "response": "b", "extras": {"by": by}}, schema) for by in "xy")
        assert (a["prompt_id"] == b["prompt_id"]) is same
        assert same_prompt(a, b, schema) is same
    assert not same_prompt(record({"prompt": "a"}), record({"prompt": "b"}), PREFERENCE)


def test_modality_lists_kinds_in_one_order():
    assert record({"prompt": "<audio><image><audio>"})["modality"] == "image+audio"
    assert record({"prompt": "<video>", "modality": "video"})["modality"] == "video"


def test_other_columns_go_to_extras():
    row = record({"prompt": "a", "extras": {"facts": "3"}, "level": 2, "images": []})
    assert json.loads(row["extras"]) == {"facts": "3", "level": 2}


def test_answers():
    assert record({"prompt": "a", "response": "b"}, DEMONSTRATION)["response"] == "b"
    row = record({"prompt": "a", "chosen": "b", "rejected": ""}, PREFERENCE)
    assert (row["chosen"], row["rejected"], row["margin"]) == ("b", "", 0.0)
    assert record({"prompt": "a", "chosen": "b", "rejected": "c", "margin": 2}, PREFERENCE)["margin"] == 2.0
    assert record({"prompt": "a", "response": "b"}, DEMONSTRATION)["feedback"] == 0.0
    assert record({"prompt": "a", "response": "b", "feedback": -1}, DEMONSTRATION)["feedback"] == -1.0
    # Read as prompts, such rows keep their answers among the extras.
    assert json.loads(record({"prompt": "a", "response": "b"})["extras"]) == {"response": "b"}


def test_rankings():
    row = record({"prompt": "a", "responses": ["b", "", "c"], "ranks": [2, 1, 2]}, RANKING)
    assert (row["responses"], row["ranks"], row["aspects"]) == (["b", "", "c"], [2, 1, 2], "{}")
    rated = {"tone": [1, None], "wärme": [None, None]}
    for aspects in (rated, json.dumps(rated)):  # in .jsonl an object, in Parquet its text
        row = record({"prompt": "a", "responses": ["b", "c"], "ranks": [], "aspects": aspects}, RANKING)
        assert (row["ranks"], json.loads(row["aspects"])) == ([], rated)


def ranking(**changes):
    return {"responses": ["b", "c"], "ranks": [1, 2]} | changes


@pytest.mark.parametrize(
    ("raw", "schema", "reason"),
    [
        ({"prompt_id": 3}, PROMPT, "prompt_id is a int"),
        ({"prompt_id": ""}, PROMPT, "prompt_id is empty"),
        ({"task": ["a"]}, PROMPT, "task is a list"),
        ({"modality": "video"}, PROMPT, "modality is 'video' but the messages show text"),
        ({"extras": [1]}, PROMPT, "extras is a list"),
        ({"extras": "{"}, PROMPT, "extras is not JSON"),
        ({"extras": {"a": 1}, "a": 2}, PROMPT, "a stands in the row and in its extras"),
        ({"note": "\ud800"}, PROMPT, "note holds half a character"),
        ({"a": 1, "note": float("nan")}, PROMPT, "note cannot be stored as JSON"),
        ({"a": 1, "note": b"bytes"}, PROMPT, "note cannot be stored as JSON.*leave it out"),
        ({}, DEMONSTRATION, "response is missing"),
        ({"response": ""}, DEMONSTRATION, "response is empty"),
        ({"response": 3}, DEMONSTRATION, "response is a int"),
        ({"chosen": "a"}, PREFERENCE, "rejected is missing"),
        ({"chosen": "a", "rejected": "a"}, PREFERENCE, "chosen and rejected are the same"),
        ({"chosen": "a", "rejected": "b", "margin": "1"}, PREFERENCE, "margin is '1'"),
        ({"chosen": "a", "rejected": "b", "margin": True}, PREFERENCE, "margin is True"),
        ({"chosen": "a", "rejected": "b", "margin": float("inf")}, PREFERENCE, "margin is inf"),
        ({"chosen": "a", "rejected": "b", "margin": 1e39}, PREFERENCE, r"margin is 1e\+39, expected a finite number"),
        ({"response": "a", "feedback": "liked"}, DEMONSTRATION, "feedback is 'liked', expected a finite number"),
        ({"response": "a", "feedback": float("nan")}, DEMONSTRATION, "feedback is nan"),
        ({"response": "a", "feedback": True}, DEMONSTRATION, "feedback is True"),
        (ranking(responses=None), RANKING, "responses has 0, expected 2 or more"),
        (ranking(responses=["b"], ranks=[1]), RANKING, "responses has 1, expected 2 or more"),
        (ranking(responses="bc"), RANKING, "responses is a str, expected a list"),
        (ranking(responses=["b", 3]), RANKING, r"responses\[1\] is a int"),
        (ranking(responses=["b", "b"]), RANKING, "responses has 'b' more than once"),
        (ranking(ranks=[1]), RANKING, r"ranks is \[1\], expected a whole number from 1 for each of the 2"),
        (ranking(ranks=[0, 1]), RANKING, r"ranks is \[0, 1\]"),
        (ranking(ranks=[1, 2.0]), RANKING, r"ranks is \[1, 2.0\]"),
        (ranking(ranks=[True, 2]), RANKING, r"ranks is \[True, 2\]"),
        (ranking(ranks=[1, None]), RANKING, r"ranks is \[1, None\]"),
        (ranking(ranks=[1, 2**31]), RANKING, r"ranks is \[1, 2147483648\]"),
        (ranking(ranks="12"), RANKING, "ranks is '12'"),
        (ranking(ranks=[]), RANKING, "neither ranks nor a rating in aspects"),
        (ranking(ranks=[], aspects={"tone": [None, None]}), RANKING, "neither ranks nor a rating"),
        (ranking(aspects=[1, 2]), RANKING, "aspects is a list, expected an object"),
        (ranking(aspects="{"), RANKING, "aspects is not JSON"),
        (ranking(aspects={"tone": [1]}), RANKING, r"aspects\['tone'\] is 1 entries, expected one for each of the 2"),
        (ranking(aspects={"tone": 1}), RANKING, r"aspects\['tone'\] is a int"),
        (ranking(aspects={"tone": [1, "2"]}), RANKING, r"aspects\['tone'\]\[1\] is '2', expected a finite number"),
        (ranking(aspects={"\ud800": [1, 2]}), RANKING, "an aspect holds half a character"),
    ],
)
def test_bad_records(raw, schema, reason):
    with pytest.raises(RowError, match=reason):
        record({"prompt": "a"} | raw, schema)


def test_facts_column_must_be_text():
    assert record({"prompt": "a", "gold": "seven"}, facts_column="gold")
    with pytest.raises(RowError, match=r"facts_column 'facts' is missing, expected text; extras has \['gold'\]"):
        record({"prompt": "a", "gold": "seven"}, facts_column="facts")
    with pytest.raises(RowError, match="facts_column 'gold' is a int"):
        record({"prompt": "a", "gold": 7}, facts_column="gold")


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", "1" * 5_000, b"\xff"])
def test_json_that_is_refused(text):
    with pytest.raises(RowError, match=r"the line is not (JSON|UTF-8)"):
        parse_json(text, "the line")


@pytest.mark.parametrize("opening", ["[", '{"a":'])
@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 500, 980, 990, 1_000, 200_000])
def test_json_that_is_nested_too_deep(opening, depth):
    text = opening * depth + "1" + {"[": "]", '{"a":': "}"}[opening] * depth
    with pytest.raises(RowError, match="the line is nested more than 256 deep"):
        parse_json(text, "the line")
    assert parse_json(text[(depth - MAX_DEPTH) * len(opening) : len(text) - depth + MAX_DEPTH], "the line")
