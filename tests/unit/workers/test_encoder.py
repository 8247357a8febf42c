"""Prompts by position: the same seed and cursor give the same prompts, and an epoch is all of them."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from mmrlhf_ray.config import DataConfig
from mmrlhf_ray.config.base import MostMedia
from mmrlhf_ray.data.encoding.encode import Encoder, encode_facts
from mmrlhf_ray.data.encoding.features import read_features
from mmrlhf_ray.data.records.quarantine import FILE_NAME
from mmrlhf_ray.data.records.readers import Records
from mmrlhf_ray.errors import DataError
from mmrlhf_ray.schema import ENCODED_PROMPT, FEATURES, MEDIA, PROMPT, check
from mmrlhf_ray.workers.roles.encoder import PromptEncoder
from tests.prompts import check_prompts, served
from tests.unit.tiny import encode, messages, raw

CLIPS = [raw("image", seed) for seed in range(3)]
COUNT = 7


def prompt(number: int) -> dict[str, Any]:
    return {
        "prompt_id": f"p{number}",
        "messages": messages(["image"]),
        "media_ids": [CLIPS[number % 3].media_id],
        "task": "digit",
        "modality": "image",
        "extras": json.dumps({"facts": f"image {number}"}),
    }


def records(rows: list[dict[str, Any]] | None = None) -> Records:
    rows = rows if rows is not None else [prompt(i) for i in range(COUNT)]
    media = [{"media_id": c.media_id, "kind": c.kind, "mime": "image/png", "data": c.data} for c in CLIPS]
    return Records(
        records=pa.Table.from_pylist(rows, schema=PROMPT),
        media=pa.Table.from_pylist(media, schema=MEDIA),
        bad_rows=0,
        file="prompts.jsonl",
        rows=tuple(2 * i for i in range(len(rows))),  # every other line of the file was blank
    )


def server(omni: Path, tmp_path: Path, rows: list[dict[str, Any]] | None = None, **changes: Any) -> PromptEncoder:
    seed = changes.pop("seed", 0)
    data = DataConfig.model_validate({"path": "prompts.jsonl"} | changes)
    encoder = PromptEncoder(str(omni), data, records(rows), tmp_path, seed)
    check_prompts(encoder)
    return encoder


def taken(encoder: PromptEncoder, cursor: int, n: int) -> list[str]:
    return served(encoder.take(range(cursor, cursor + n)))[0].column("prompt_id").to_pylist()


def test_every_epoch_is_all_prompts_in_an_order_of_its_own(omni: Path, tmp_path: Path) -> None:
    encoder = server(omni, tmp_path)
    assert check_prompts(encoder) == COUNT
    epochs = [taken(encoder, COUNT * e, COUNT) for e in range(4)]
    assert all(sorted(epoch) == [f"p{i}" for i in range(COUNT)] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_prompts_with_more_media_than_the_sampler_takes_are_set_aside(omni: Path, tmp_path: Path) -> None:
    crowded = prompt(3) | {"messages": messages(["image"] * 3), "media_ids": [clip.media_id for clip in CLIPS]}
    for policy, most in (("quarantine", 2), ("quarantine", 3), ("fail", 2)):
        data = DataConfig.model_validate({"path": "prompts.jsonl", "on_bad_row": policy})
        given = records([prompt(0), crowded])
        encoder = PromptEncoder(str(omni), data, given, tmp_path, 0, most_media=MostMedia("the.key", most))
        if policy == "fail":
            with pytest.raises(DataError, match=r"p3[^$]*3 media of kind image, more than the\.key=2"):
                check_prompts(encoder)
        else:
            assert check_prompts(encoder) == most - 1


def test_positions_are_all_that_resuming_needs(omni: Path, tmp_path: Path) -> None:
    straight = taken(server(omni, tmp_path), 0, 18)
    resumed = server(omni, tmp_path)
    # Batches of another size, and across the end of an epoch, read the same sequence.
    assert taken(resumed, 5, 6) == straight[5:11]
    assert taken(resumed, 11, 7) == straight[11:18]
    assert taken(resumed, 0, 5) == straight[:5]
    prompts, *_ = resumed.take([9, 2, 17])
    assert prompts.column("prompt_id").to_pylist() == [straight[9], straight[2], straight[17]]
    assert prompts.column("group_id").to_pylist() == [9, 2, 17]


def test_a_group_is_a_position_so_a_prompt_drawn_twice_is_two_groups(omni: Path, tmp_path: Path) -> None:
    prompts, *_ = server(omni, tmp_path).take(range(COUNT - 2, 2 * COUNT + 2))
    names, groups = (prompts.column(column).to_pylist() for column in ("prompt_id", "group_id"))
    assert len(set(names)) < len(names)
    assert groups == list(range(COUNT - 2, 2 * COUNT + 2))
    assert served(server(omni, tmp_path).slice(1, 4))[0].column("group_id").to_pylist() == [1, 2, 3]


def test_another_seed_is_another_order(omni: Path, tmp_path: Path) -> None:
    orders = {tuple(taken(server(omni, tmp_path, seed=seed), 0, COUNT)) for seed in range(3)}
    assert len(orders) == 3


def test_what_is_served(omni: Path, omni_encoder: Encoder, tmp_path: Path) -> None:
    prompts, media, features, asked, stats = served(server(omni, tmp_path, facts_column="facts").slice(1, 6))
    check(prompts, ENCODED_PROMPT, "test")
    check(media, MEDIA, "test")
    check(features, FEATURES, "test")
    assert check(asked, PROMPT, "test").to_pylist() == [prompt(i) for i in range(1, 6)]
    assert prompts.column("prompt_id").to_pylist() == [f"p{i}" for i in range(1, 6)]
    for number, row in enumerate(prompts.to_pylist(), start=1):
        want = encode(omni_encoder, [CLIPS[number % 3]])
        assert row["prompt_token_ids"] == want.token_ids
        assert row["collapsed_token_ids"] == want.collapsed_token_ids
        assert row["facts_token_ids"] == encode_facts(omni_encoder, f"image {number}")
        assert row["media_ids"] == [CLIPS[number % 3].media_id]
    # Five prompts show three clips: each goes out once, raw and as features.
    by_id = {c.media_id: c for c in CLIPS}
    assert sorted(media.column("media_id").to_pylist()) == sorted(by_id)
    assert all(by_id[row["media_id"]].data == row["data"] for row in media.to_pylist())
    arrays = read_features(features)
    assert set(arrays) == set(by_id)
    size = sum(a.nbytes for f in arrays.values() for a in f.values()) + sum(len(c.data) for c in CLIPS)
    assert stats.media_bytes == size
    assert stats.processor_calls == 0, "all were encoded when they were checked"


def test_an_evaluation_names_a_bad_row_that_was_not_checked(omni: Path, tmp_path: Path) -> None:
    rows = [prompt(0), prompt(1), prompt(2) | {"messages": messages(["image", "image"])}]
    encoder = server(omni, tmp_path, rows, check_rows=1, on_bad_row="quarantine", seed=1)
    assert len(served(encoder.slice(0, 2))[0]) == 2
    with pytest.raises(DataError, match=r"raise data.check_rows .*\n.*, line 5 \(p2\): .*2 image placeholder"):
        served(encoder.slice(1, 3))


def test_of_many_prompts_a_sample_is_checked(omni: Path, tmp_path: Path) -> None:
    many = [prompt(0) | {"prompt_id": f"p{n}"} for n in range(5000)]
    for n, row in enumerate(many):
        row["messages"] = messages(["image"], f"question {n}")
    encoder = server(omni, tmp_path, many)
    assert encoder._cache.misses == 256
    assert len(taken(encoder, 0, 3)) == 3
    few = server(omni, tmp_path, many[:300])
    assert few._cache.misses == 300


def test_no_facts_unless_configured(omni: Path, tmp_path: Path) -> None:
    prompts, *_ = server(omni, tmp_path).slice(0, 2)
    assert prompts.column("facts_token_ids").to_pylist() == [[], []]


def test_a_prompt_that_is_too_long_stops_the_run_and_is_named(
    omni: Path, omni_encoder: Encoder, tmp_path: Path
) -> None:
    long = prompt(1) | {"messages": messages(["image"], "read the image " * 20)}
    most = len(encode(omni_encoder, [CLIPS[0]]).token_ids)
    with pytest.raises(DataError) as error:
        server(omni, tmp_path, [prompt(0), long], max_prompt_tokens=most)
    text = str(error.value)
    assert "prompts.jsonl, line 3 (p1)" in text, "the row's number in the file"
    assert f"more than data.max_prompt_tokens={most}" in text
    assert "Shorten it or raise data.max_prompt_tokens" in text
    assert not (tmp_path / FILE_NAME).exists()


def test_bad_prompts_are_set_aside_where_asked(omni: Path, omni_encoder: Encoder, tmp_path: Path) -> None:
    rows = [
        prompt(0) | {"messages": messages(["image"], "read the image " * 20)},
        prompt(1),
        prompt(2) | {"messages": messages(["image", "image"])},
    ]
    most = len(encode(omni_encoder, [CLIPS[0]]).token_ids)
    encoder = server(omni, tmp_path, rows, max_prompt_tokens=most, on_bad_row="quarantine")
    assert check_prompts(encoder) == 1
    assert taken(encoder, 0, 3) == ["p1"] * 3
    aside = [json.loads(line) for line in (tmp_path / FILE_NAME).read_text().splitlines()]
    assert [(a["record_id"], a["row"]) for a in aside] == [("p0", 0), ("p2", 4)]
    assert "tokens (media included)" in aside[0]["reason"]
    assert "2 image placeholder(s) for 1 image clip(s)" in aside[1]["reason"]
    assert aside[0]["record"]["messages"] == rows[0]["messages"]


def test_nothing_left_is_an_error_even_then(omni: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no usable row among 1"):
        server(omni, tmp_path, [prompt(0)], max_prompt_tokens=3, on_bad_row="quarantine")
