"""Records to TRAINING_ROW. The object store's part, handing over the media table, is done without a cluster."""

import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from mmrlhf_ray.data.encoding import training_rows
from mmrlhf_ray.data.encoding.encode import Encoder, encode_facts, encode_response, token_texts
from mmrlhf_ray.data.encoding.features import features_table
from mmrlhf_ray.data.encoding.training_rows import EncodeOptions, encode_records, features_from_bytes, table_to_bytes
from mmrlhf_ray.demo.families.tokens import BOXES
from mmrlhf_ray.schema import DEMONSTRATION, MEDIA, PREFERENCE, RANKING, TRAINING_ROW, check
from tests.unit.tiny import encode, messages, raw

CLIP = raw("image", 1)


class Reference:
    """Stands for an object reference: it can be hashed, and resolves to a table."""

    def __init__(self, table: pa.Table):
        self.table = table


@pytest.fixture
def media(monkeypatch: pytest.MonkeyPatch) -> Reference:
    monkeypatch.setattr(training_rows.ray, "get", lambda reference: reference.table)
    row = {"media_id": CLIP.media_id, "kind": "image", "mime": "image/png", "data": CLIP.data}
    return Reference(pa.Table.from_pylist([row], schema=MEDIA))


def record(**changes: object) -> dict[str, object]:
    return {
        "prompt_id": "p",
        "messages": messages(["image"]),
        "media_ids": [CLIP.media_id],
        "task": "t",
        "modality": "image",
        "extras": json.dumps({"facts": "image 7"}),
    } | changes


def numbered(rows: list[dict[str, object]], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=schema).append_column("row", pa.array(range(len(rows)), pa.int64()))


def test_a_demonstration(omni: Path, omni_encoder: Encoder, media: Reference) -> None:
    batch = numbered([record(response="answer : 7", feedback=-1.0)], DEMONSTRATION)
    table = encode_records(batch, EncodeOptions(str(omni), None, 512, 4096), [media])
    (row,) = check(table, TRAINING_ROW, "test").to_pylist()
    want = encode(omni_encoder, [CLIP])
    assert row["context_token_ids"] == want.token_ids
    assert row["responses_token_ids"] == [encode_response(omni_encoder, "answer : 7")]
    assert (row["problem"], row["margin"], row["row"]) == ("", 0.0, 0)
    assert (row["feedback"], row["ranks"], row["ratings"], row["ref_logprobs"]) == ([-1.0], [], [], [])
    features = features_from_bytes([row["features"]])
    assert np.array_equal(features[CLIP.media_id]["pixel_values"], want.features[CLIP.media_id]["pixel_values"])


def test_a_preference_reads_facts_before_the_prompt(omni: Path, omni_encoder: Encoder, media: Reference) -> None:
    batch = numbered([record(chosen="answer : 7", rejected="answer : 3", margin=0.5)], PREFERENCE)
    table = encode_records(batch, EncodeOptions(str(omni), "facts", 512, 4096), [media])
    (row,) = table.to_pylist()
    facts = encode_facts(omni_encoder, "image 7")
    assert facts
    assert row["context_token_ids"] == facts + encode(omni_encoder, [CLIP]).token_ids
    assert row["responses_token_ids"] == [encode_response(omni_encoder, f"answer : {d}") for d in (7, 3)]
    assert (row["margin"], row["feedback"]) == (0.5, [1.0, -1.0])


def marks(*regions: object) -> str:
    return json.dumps({"annotated": {"regions": list(regions)}})


def test_marked_words_become_marked_tokens(omni: Path, omni_encoder: Encoder, media: Reference) -> None:
    text = "answer : 7"
    regions = (
        {"kind": "text", "response": "rejected", "extent": [9, 10], "note": "is a seven"},
        {"kind": "box", "medium": 0, "extent": [0, 0, 1, 1]},
        {"kind": "text", "response": "chosen", "extent": [0, 7], "note": "up to the colon, which is not marked"},
    )
    batch = numbered([record(chosen=text, rejected="answer : 3", margin=0.5, extras=marks(*regions))], PREFERENCE)
    (row,) = check(
        encode_records(batch, EncodeOptions(str(omni), None, 512, 4096), [media]), TRAINING_ROW, "t"
    ).to_pylist()
    assert row["problem"] == ""
    chosen, rejected = row["marked"]
    for ids, flags, wanted in zip(row["responses_token_ids"], (chosen, rejected), (["answer"], ["3"]), strict=True):
        words = token_texts(omni_encoder, ids)
        assert [word.strip() for word, marked in zip(words, flags, strict=True) if marked] == wanted


@pytest.mark.parametrize(
    "region",
    [
        3,
        {"kind": "text"},
        {"kind": "text", "response": "third", "extent": [0, 1]},
        {"kind": "text", "response": "chosen", "extent": [0, 99]},
        {"kind": "text", "response": "chosen", "extent": [3, 3]},
        {"kind": "text", "response": 2, "extent": [0, 1]},
    ],
)
def test_marks_beyond_a_response_are_a_problem_of_the_row(omni: Path, media: Reference, region: object) -> None:
    batch = numbered([record(chosen="answer : 7", rejected="a", margin=0.5, extras=marks(region))], PREFERENCE)
    (row,) = encode_records(batch, EncodeOptions(str(omni), None, 512, 4096), [media]).to_pylist()
    assert row["problem"].startswith("extras.annotated.regions")


@pytest.mark.parametrize("extras", ["{}", '{"annotated": "by hand"}', '{"annotated": {"for": 1}}'])
def test_records_without_marks_have_none(omni: Path, media: Reference, extras: str) -> None:
    batch = numbered([record(chosen="answer : 7", rejected="a", margin=0.5, extras=extras)], PREFERENCE)
    (row,) = encode_records(batch, EncodeOptions(str(omni), None, 512, 4096), [media]).to_pylist()
    assert (row["problem"], row["marked"]) == ("", [])


def test_a_mismatched_response_comes_last_and_nobody_judged_it(omni: Path, omni_encoder: Encoder, media: Reference):
    batch = numbered([record(chosen="answer : 7", rejected="answer : 3", margin=0.5)], PREFERENCE)
    batch = batch.append_column("mismatched", pa.array(["answer : 5"]))
    (row,) = encode_records(batch, EncodeOptions(str(omni), None, 512, 4096), [media]).to_pylist()
    assert row["responses_token_ids"] == [encode_response(omni_encoder, f"answer : {d}") for d in (7, 3, 5)]
    assert row["feedback"] == [1.0, -1.0, 0.0]


def test_a_ranking(omni: Path, omni_encoder: Encoder, media: Reference) -> None:
    aspects = {"tone": [1.0, None, 0.5], "truth": [None, 2.0, 3.0]}
    texts = [f"answer : {d}" for d in (7, 3, 5)]
    batch = numbered([record(responses=texts, ranks=[2, 1, 2], aspects=json.dumps(aspects))], RANKING)
    options = EncodeOptions(str(omni), None, 512, 4096, aspects=("truth", "wit", "tone"))
    (row,) = check(encode_records(batch, options, [media]), TRAINING_ROW, "test").to_pylist()
    assert row["responses_token_ids"] == [encode_response(omni_encoder, text) for text in texts]
    assert (row["ranks"], row["feedback"]) == ([2, 1, 2], [0.0, 0.0, 0.0])
    want = [[math.nan, math.nan, 1.0], [2.0, math.nan, math.nan], [3.0, math.nan, 0.5]]
    np.testing.assert_array_equal(row["ratings"], want)
    without = EncodeOptions(str(omni), None, 512, 4096)
    assert encode_records(batch, without, [media]).column("ratings").to_pylist() == [[]]
    wrong = EncodeOptions(str(omni), None, 512, 4096, aspects=("wit",))
    (problem,) = encode_records(batch, wrong, [media]).column("problem").to_pylist()
    assert problem == "the row rates ['tone', 'truth'], none of aspects ['wit']"


def test_policies_do_not_learn_what_is_never_sampled(omni: Path, omni_encoder: Encoder, media: Reference) -> None:
    token = omni_encoder.tokenizer.unk_token
    batch = numbered([record(chosen="answer : 7", rejected=token, margin=0.0)], PREFERENCE)
    for sampled_only, want in ((False, ""), (True, f"response 1 contains the control token {token!r}")):
        options = EncodeOptions(str(omni), None, 512, 4096, sampled_only=sampled_only)
        (row,) = check(encode_records(batch, options, [media]), TRAINING_ROW, "test").to_pylist()
        assert row["problem"].startswith(want)
        assert bool(row["problem"]) is sampled_only


def test_no_model_learns_placeholders_or_what_follows_the_end(omni: Path, media: Reference) -> None:
    rows = [
        record(chosen="answer : 7", rejected=f"answer {token} : 3", margin=0.0)
        for token in ("<|IMAGE|>", "<|AUDIO|>", "<|im_start|>", "<|im_end|>")
    ]
    for sampled_only in (False, True):
        options = EncodeOptions(str(omni), None, 512, 4096, sampled_only=sampled_only)
        problems = encode_records(numbered(rows, PREFERENCE), options, [media]).column("problem").to_pylist()
        assert all(problem.startswith("response 1 contains the control token '<|") for problem in problems), problems


def test_bad_rows_come_back_with_their_problem(omni: Path, omni_encoder: Encoder, media: Reference) -> None:
    rows = [
        record(feedback=0.0, response="answer : 7"),
        record(feedback=0.0, response="answer : 7", messages=messages([])),
        record(feedback=0.0, response="answer : 7", messages=messages(["image"], "read <|IMAGE|>")),
    ]
    longest = len(encode(omni_encoder, [CLIP]).token_ids)
    table = encode_records(numbered(rows, DEMONSTRATION), EncodeOptions(str(omni), None, longest, 4096), [media])
    good, mismatch, control = table.to_pylist()
    assert good["problem"] == ""
    assert "0 image placeholder(s) for 1 image clip(s)" in mismatch["problem"]
    assert "control token" in control["problem"]
    assert (mismatch["context_token_ids"], mismatch["features"]) == ([], b"")
    short = encode_records(
        numbered(rows[:1], DEMONSTRATION), EncodeOptions(str(omni), None, longest - 1, 4096), [media]
    )
    assert short.column("problem").to_pylist() == [
        f"prompt has {longest} tokens (media included), more than data.max_prompt_tokens={longest - 1}"
    ]


def test_streams_of_several_rows_are_merged() -> None:
    streams = [table_to_bytes(features_table({name: {"x": np.array([i])}})) for i, name in enumerate("ab")]
    merged = features_from_bytes([*streams, table_to_bytes(features_table({}))])
    assert {name: f["x"].tolist() for name, f in merged.items()} == {"a": [0], "b": [1]}


def test_a_row_longer_than_the_models_context_is_named(media: Reference, omni: Path) -> None:
    rows = numbered([record(response="7 " * 40, feedback=0.0), record(response="7", feedback=0.0)], DEMONSTRATION)
    options = EncodeOptions(str(omni), None, 512, 4096, context_tokens=40)
    long, short = encode_records(rows, options, [media]).column("problem").to_pylist()
    assert "tokens (media included), more than the 40 that the model is made for" in long
    assert short == ""


def test_allowed_tokens_are_learned(media: Reference, vl: Path) -> None:
    said = "<|box_start|>(1,2)<|box_end|>"
    rows = numbered([record(response=said, feedback=0.0, messages=messages(["image"], said))], DEMONSTRATION)
    for allowed in ((), BOXES):
        options = EncodeOptions(str(vl), None, 512, 4096, sampled_only=True, allowed=allowed)
        (problem,) = encode_records(rows, options, [media]).column("problem").to_pylist()
        assert bool(problem) is not bool(allowed), problem


def test_a_row_that_no_pass_can_hold_is_named(media: Reference, omni: Path) -> None:
    rows = numbered([record(response="7 " * 40, feedback=0.0)], DEMONSTRATION)
    (row,) = encode_records(rows, EncodeOptions(str(omni), None, 512, 40), [media]).to_pylist()
    assert "more than learner.engine.micro_batch_tokens=40" in row["problem"]
