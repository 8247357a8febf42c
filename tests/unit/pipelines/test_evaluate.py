"""Whose media a prompt is asked with, and what an evaluation sums up."""

import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmrlhf_ray.data.records.readers import Records
from mmrlhf_ray.pipelines.evaluate.job import RESPONSES_FILE, best_rows, read_responses, summary, with_swapped_media
from mmrlhf_ray.pipelines.responses import SWAPPED
from mmrlhf_ray.schema import MEDIA, PROMPT, RESPONSE
from tests.unit.tiny import filled_responses, messages


def records(*prompts: tuple[str, list[str]]) -> Records:
    """Prompts (task, media) whose media are named by kind and number, e.g. image3."""
    rows = [
        {
            "prompt_id": f"p{i}",
            "messages": messages([kind_of(m) for m in media]),
            "media_ids": media,
            "task": task,
            "modality": "+".join(dict.fromkeys(kind_of(m) for m in media)) or "text",
            "extras": "{}",
        }
        for i, (task, media) in enumerate(prompts)
    ]
    ids = sorted({m for _, media in prompts for m in media})
    clips = [{"media_id": m, "kind": kind_of(m), "mime": "x/y", "data": m.encode()} for m in ids]
    return Records(
        pa.Table.from_pylist(rows, schema=PROMPT),
        pa.Table.from_pylist(clips, schema=MEDIA),
        bad_rows=0,
        file="f.jsonl",
        rows=tuple(range(10, 10 + len(rows))),
    )


def kind_of(media_id: str) -> str:
    return media_id.rstrip("0123456789")


def swapped_rows(made: Records) -> dict[str, dict[str, Any]]:
    rows = made.records.to_pylist()
    return {r["prompt_id"].removesuffix(SWAPPED): r for r in rows if r["prompt_id"].endswith(SWAPPED)}


MANY = records(
    *(("one", [f"image{i}"]) for i in range(6)),
    *(("mixed", [f"image{i}", f"audio{i}"]) for i in range(4)),
    # One task, one modality, but one picture or two: these must not be exchanged for those.
    *(("loose", [f"image{i}"]) for i in range(3)),
    *(("loose", [f"image{i}", f"image{i + 1}"]) for i in range(0, 6, 2)),
    ("one", []),
)


@pytest.mark.parametrize("seed", range(10))
def test_media_are_another_prompts_of_the_same_task_and_kinds(seed: int) -> None:
    own = {row["prompt_id"]: row for row in MANY.records.to_pylist()}
    swapped = swapped_rows(with_swapped_media(MANY, seed))
    assert set(swapped) == {prompt_id for prompt_id, row in own.items() if row["media_ids"]}
    for prompt_id, row in swapped.items():
        before = own[prompt_id]
        assert not set(row["media_ids"]) & set(before["media_ids"]), "never its own"
        assert [kind_of(m) for m in row["media_ids"]] == [kind_of(m) for m in before["media_ids"]]
        donors = [o for o in own.values() if o["media_ids"] == row["media_ids"] and o["task"] == before["task"]]
        assert donors
        assert {k: v for k, v in row.items() if k not in ("prompt_id", "media_ids")} == {
            k: v for k, v in before.items() if k not in ("prompt_id", "media_ids")
        }


def test_prompts_stay_in_front_and_rows_name_the_files_rows() -> None:
    made = with_swapped_media(MANY, 0)
    count = len(MANY.records)
    assert made.records.slice(0, count).equals(MANY.records)
    assert made.rows[:count] == MANY.rows
    place = dict(zip(MANY.records.column("prompt_id").to_pylist(), MANY.rows, strict=True))
    names = made.records.column("prompt_id").to_pylist()[count:]
    assert list(made.rows[count:]) == [place[name.removesuffix(SWAPPED)] for name in names]
    assert len(made.rows) == len(made.records)


def test_the_seed_decides() -> None:
    assert with_swapped_media(MANY, 1).records.equals(with_swapped_media(MANY, 1).records)
    assert not with_swapped_media(MANY, 1).records.equals(with_swapped_media(MANY, 2).records)


def test_without_other_media_a_prompt_stays_out() -> None:
    alone = records(("a", ["image0"]), ("b", ["image1"]), ("c", ["image2"]), ("c", ["image2"]), ("d", []))
    assert swapped_rows(with_swapped_media(alone, 0)) == {}


def responses(*rows: tuple[str, str, float, float, int]) -> pa.Table:
    """Rows of (policy, media, score, kl, tokens)."""
    made = [
        {
            "step": 0,
            "policy": policy,
            "media": media,
            "prompt_id": str(i),
            "task": "t",
            "modality": "image",
            "text": "",
            "finish_reason": "stop",
            "response_tokens": tokens,
            "score": score,
            "kl": kl,
        }
        for i, (policy, media, score, kl, tokens) in enumerate(rows)
    ]
    return filled_responses(made)


def test_summary_of_two_policies() -> None:
    table = responses(
        ("policy", "own", 3.0, 0.5, 4),
        ("policy", "own", 1.0, 1.5, 6),
        ("policy", "swapped", 0.0, 2.0, 8),
        ("baseline", "own", 2.0, 0.0, 2),
        ("baseline", "own", 1.0, 0.0, 2),
    )
    out = summary(table)
    own = out["policy, own media"]
    assert (own["responses"], own["kl"], own["response_tokens"], own["score"]["estimate"]) == (2, 1.0, 5.0, 2.0)
    assert own["score"]["low"] <= 2.0 <= own["score"]["high"]
    assert out["policy, swapped media"]["score"]["estimate"] == 0.0
    assert "baseline, swapped media" not in out
    versus = out["policy against baseline, by score"]
    assert (versus["wins"], versus["ties"], versus["losses"]) == (1, 1, 0)
    assert json.loads(json.dumps(out)) == out


def test_the_worst_task_and_modality_are_named() -> None:
    table = responses(*(("policy", "own", score, 0.0, 1) for score in (3.0, math.nan, -1.0, 1.0, 2.0)))
    for name, values in (
        ("task", ["b", "worst?", "a", "a", "b"]),
        ("modality", ["text", "text", "image", "text", "text"]),
    ):
        table = table.set_column(table.column_names.index(name), RESPONSE.field(name), pa.array(values))
    own = summary(table)["policy, own media"]
    assert (own["worst_task"]["task"], own["worst_task"]["responses"]) == ("a", 2)
    assert own["worst_task"]["score"]["estimate"] == 0.0
    assert (own["worst_modality"]["modality"], own["worst_modality"]["score"]["estimate"]) == ("image", -1.0)


def test_the_best_of_the_first_so_many_is_taken_in_each_group() -> None:
    groups, scores = [7, 7, 7, 3, 3, 3], [1.0, 2.0, 9.0, math.nan, -5.0, 0.0]
    assert best_rows(groups, scores, 2) == [1, 4]
    assert best_rows(groups, scores, 3) == [2, 5]
    assert best_rows([1, 1], [math.nan, math.nan], 2) == [0], "one without a score, where none has one"


def test_best_of_stands_next_to_the_policies() -> None:
    rows = [("policy", "own", 1.0, 0.5, 4), ("baseline", "own", 0.0, 0.0, 4), ("best of 4", "own", 3.0, math.nan, 4)]
    out = summary(responses(*rows))
    assert out["best of 4, own media"]["score"]["estimate"] == 3.0
    assert "kl" not in out["best of 4, own media"]
    assert out["policy against baseline, by score"]["wins"] == 1


def test_what_nobody_was_asked_is_left_out() -> None:
    out = summary(responses(("policy", "own", math.nan, math.nan, 4)))
    assert out == {"policy, own media": {"responses": 1, "response_tokens": 4.0}}
    json.dumps(out, allow_nan=False)


def test_components_are_summed_up_one_by_one_and_gaps_are_counted() -> None:
    table = responses(
        ("policy", "own", 3.0, math.nan, 4),
        ("policy", "own", math.nan, math.nan, 4),
        ("policy", "own", 1.0, math.nan, 4),
        ("baseline", "own", 1.0, math.nan, 4),
        ("baseline", "own", 7.0, math.nan, 4),
        ("baseline", "own", 1.0, math.nan, 4),
    )
    parts = {"exact": [1.0, None, 0.0, 1.0, 1.0, 1.0], "length": [4.0, 2.0, 3.0, None, None, None]}
    out = summary(table, parts)
    own = out["policy, own media"]
    assert (own["score"]["estimate"], own["without_score"], own["responses"]) == (2.0, 1, 3)
    assert {name: found["estimate"] for name, found in own["rewards"].items()} == {"exact": 0.5, "length": 3.0}
    assert list(out["baseline, own media"]["rewards"]) == ["exact"]
    versus = out["policy against baseline, by score"]
    assert (versus["wins"], versus["ties"], versus["losses"]) == (1, 1, 0), "a pair needs two scores"
    json.dumps(out, allow_nan=False)
    assert "rewards" not in summary(table, {"exact": parts["exact"]})["policy, own media"], "one is the score"


def test_responses_are_read_back_by_policy_and_media(tmp_path: Path) -> None:
    table = responses(("policy", "own", 3.0, 0.5, 4), ("policy", "swapped", 1.0, 1.5, 6), ("sft", "own", 0.0, 0.0, 1))
    pq.write_table(table, tmp_path / RESPONSES_FILE)
    assert read_responses(tmp_path, "policy").column("score").to_pylist() == [3.0]
    assert read_responses(tmp_path, "policy", "swapped").column("score").to_pylist() == [1.0]
    assert len(read_responses(tmp_path, "nobody")) == 0
