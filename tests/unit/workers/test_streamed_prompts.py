"""Prompts that are read when their turn comes: the same from any cursor, whatever bad rows turn up."""

import json
from pathlib import Path
from typing import Any

import pytest

from mmrlhf_ray.config import DataConfig
from mmrlhf_ray.data.records.quarantine import FILE_NAME
from mmrlhf_ray.data.records.readers import first_records, read_records
from mmrlhf_ray.errors import DataError
from mmrlhf_ray.schema import ENCODED_PROMPT, PROMPT, check
from mmrlhf_ray.workers.roles.encoder import PromptEncoder
from tests.prompts import check_prompts, served
from tests.unit.tiny import raw

COUNT = 40
CLIPS = [raw("image", seed) for seed in range(3)]


def rows_file(path: Path, bad: frozenset[int] = frozenset(), long: frozenset[int] = frozenset()) -> Path:
    for number, clip in enumerate(CLIPS):
        (path / f"{number}.png").write_bytes(clip.data)
    lines = [
        {
            "prompt": 3 if n in bad else "read the image " * (30 if n in long else 1) + str(n),
            "prompt_id": f"p{n}",
            "images": [f"{n % 3}.png"],
            "gold": n,
        }
        for n in range(COUNT)
    ]
    (path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path / "rows.jsonl"


def server(omni: Path, tmp_path: Path, file: Path, **changes: Any) -> PromptEncoder:
    data = DataConfig.model_validate({"path": str(file), "streaming": True, "max_prompt_tokens": 64} | changes)
    encoder = PromptEncoder(str(omni), data, first_records(data, PROMPT, 0), tmp_path / "run", 0)
    assert check_prompts(encoder) == COUNT
    return encoder


def taken(encoder: PromptEncoder, cursor: int, n: int) -> list[str]:
    table, media, features, _, stats = served(encoder.take(range(cursor, cursor + n)))
    check(table, ENCODED_PROMPT, "test")
    assert stats.processor_calls <= n
    shown = {media_id for ids in table.column("media_ids").to_pylist() for media_id in ids}
    assert sorted(media.column("media_id").to_pylist()) == sorted(shown)
    assert set(features.column("media_id").to_pylist()) == shown
    return table.column("prompt_id").to_pylist()


def aside(tmp_path: Path) -> list[int]:
    path = tmp_path / "run" / FILE_NAME
    return [json.loads(line)["row"] for line in path.read_text().splitlines()] if path.exists() else []


def test_the_cursor_is_all_that_resuming_needs(omni: Path, tmp_path: Path) -> None:
    file = rows_file(tmp_path)
    straight = taken(server(omni, tmp_path, file, check_rows=5), 0, 3 * COUNT)
    for epoch in range(3):
        assert sorted(straight[epoch * COUNT : (epoch + 1) * COUNT]) == sorted(f"p{n}" for n in range(COUNT))
    resumed = server(omni, tmp_path, file, check_rows=1)
    for cursor in (7, COUNT - 2, 99):
        assert taken(resumed, cursor, 9) == straight[cursor : cursor + 9]


def test_same_prompts_as_when_they_are_held(omni: Path, tmp_path: Path) -> None:
    file = rows_file(tmp_path)
    streamed = server(omni, tmp_path, file, check_rows=1)
    data = DataConfig(path=str(file), max_prompt_tokens=64)
    held = PromptEncoder(str(omni), data, read_records(data, PROMPT, tmp_path / "run"), tmp_path / "run", 0)
    check_prompts(held)
    by_id = [{row["prompt_id"]: row for row in served(e.take(range(COUNT)))[0].to_pylist()} for e in (streamed, held)]
    assert by_id[0] == by_id[1]


def test_the_records_of_what_was_taken(omni: Path, tmp_path: Path) -> None:
    encoder = server(omni, tmp_path, rows_file(tmp_path), check_rows=1)
    table, _, _, records, _ = served(encoder.take(range(4, 10)))
    ids = table.column("prompt_id").to_pylist()
    assert check(records, PROMPT, "test").column("prompt_id").to_pylist() == ids
    assert [f"p{json.loads(extras)['gold']}" for extras in records.column("extras").to_pylist()] == ids


def test_rows_in_the_order_of_the_file(omni: Path, tmp_path: Path) -> None:
    encoder = server(omni, tmp_path, rows_file(tmp_path, frozenset({9})), check_rows=1)
    assert served(encoder.slice(3, 8))[0].column("prompt_id").to_pylist() == ["p3", "p4", "p5", "p6", "p7"]
    with pytest.raises(DataError, match=r"line 10 \(p9\): prompt is"):
        served(encoder.slice(8, 12))


def test_a_bad_row_leaves_the_other_positions_alone(omni: Path, tmp_path: Path) -> None:
    whole = taken(server(omni, tmp_path, rows_file(tmp_path), check_rows=1), 0, 2 * COUNT)
    bad, long = frozenset({3, 11}), frozenset({20})
    gone = {f"p{n}" for n in bad | long}
    first = whole.index(next(p for p in whole if p not in gone))
    encoder = server(omni, tmp_path, rows_file(tmp_path, bad, long), check_rows=first + 1, on_bad_row="quarantine")
    found = taken(encoder, 0, 2 * COUNT)
    for was, now in zip(whole, found, strict=True):
        assert now == was if was not in gone else now not in gone
    assert sorted(aside(tmp_path)) == sorted(bad | long)
    again = server(omni, tmp_path, rows_file(tmp_path, bad, long), check_rows=first + 1, on_bad_row="quarantine")
    assert taken(again, 17, 30) == found[17:47]
    assert taken(again, 0, 17) == found[:17]


def test_a_bad_row_that_turns_up_stops_the_run(omni: Path, tmp_path: Path) -> None:
    file = rows_file(tmp_path)
    order = taken(server(omni, tmp_path, file, check_rows=1), 0, COUNT)
    late = int(order[30][1:])
    encoder = server(omni, tmp_path, rows_file(tmp_path, frozenset({late})), check_rows=30)
    assert taken(encoder, 0, 30) == order[:30]
    with pytest.raises(
        DataError, match=rf"rows.jsonl: a row cannot be used .*\n.*line {late + 1} \(p{late}\): prompt is"
    ):
        served(encoder.take([30]))
    with pytest.raises(DataError, match=rf"1 of {COUNT} rows cannot be used"):
        server(omni, tmp_path, file)


def test_nothing_but_bad_rows_is_an_error(omni: Path, tmp_path: Path) -> None:
    every = frozenset(range(COUNT))
    with pytest.raises(DataError, match="no usable row among 2"):
        server(omni, tmp_path, rows_file(tmp_path, every), check_rows=2, on_bad_row="quarantine")


def test_a_small_cache_costs_no_second_call(omni: Path, tmp_path: Path) -> None:
    file = rows_file(tmp_path)
    encoder = server(omni, tmp_path, file, check_rows=1, encoder_cache_mb=1, spill_dir=str(tmp_path / "spill"))
    first = served(encoder.take(range(COUNT)))[4].processor_calls
    assert first <= COUNT
    assert served(encoder.take(range(COUNT, 2 * COUNT)))[4].processor_calls == 0, "spilled, or still in memory"


def test_one_name_for_two_prompts_of_a_batch(omni: Path, tmp_path: Path) -> None:
    lines = [{"prompt": f"{n}", "prompt_id": "same"} for n in range(COUNT)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    encoder = server(omni, tmp_path, tmp_path / "rows.jsonl", check_rows=1)
    with pytest.raises(DataError, match=r"prompt_id 'same' names another prompt in .*; give every prompt its own"):
        served(encoder.take(range(8)))


def test_long_prompts_lose_text_where_asked(omni: Path, tmp_path: Path) -> None:
    file = rows_file(tmp_path, long=frozenset({5}))
    encoder = server(omni, tmp_path, file, over_long="truncate_text")
    rows = {row["prompt_id"]: row for row in served(encoder.take(range(COUNT)))[0].to_pylist()}
    assert len(rows) == COUNT
    assert 50 < len(rows["p5"]["prompt_token_ids"]) <= 64
