"""Streams through real Ray Data, Ray Train and actors: every row, in order, from any position; a clip crosses once."""

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmrlhf_ray.config import DataConfig, EngineConfig, ModelConfig, OptimizerConfig, SFTConfig
from mmrlhf_ray.data.batches.stream import BLOCK_ROWS, StreamPlan, stream, stream_batches
from mmrlhf_ray.data.encoding.training_rows import EncodeOptions
from mmrlhf_ray.data.records.quarantine import FILE_NAME, Rejected
from mmrlhf_ray.data.records.rows import open_sources
from mmrlhf_ray.errors import DataError
from mmrlhf_ray.pipelines.supervised import sft
from mmrlhf_ray.pipelines.supervised.rows import HeldRows, Share
from mmrlhf_ray.runtime.metrics import read_metrics
from mmrlhf_ray.schema import DEMONSTRATION, TRAINING_ROW

STEPS = 6
CHECKPOINT = 4

pytestmark = pytest.mark.usefixtures("session")


def stream_plan(model_dir: Path, path: Path, **changes: Any) -> StreamPlan:
    config = DataConfig.model_validate({"path": str(path), "streaming": True, "max_prompt_tokens": 64} | changes)
    options = EncodeOptions(str(model_dir), None, 64, 2048, data=config)
    return StreamPlan(config, DEMONSTRATION, open_sources(config), options, seed=0)


def text_rows(path: Path, count: int, bad: frozenset[int] = frozenset()) -> Path:
    lines = [
        {"prompt": f"{n}", "prompt_id": f"p{n}", "response": 3 if n in bad else "answer : odd"} for n in range(count)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def ids_of(plan: StreamPlan, positions: range) -> list[str]:
    tables = [block.rows for block in stream(plan, positions)]
    assert [r for table in tables for r in table.column("row").to_pylist()] == list(positions)
    return [prompt_id for table in tables for prompt_id in table.column("prompt_id").to_pylist()]


def test_every_row_once_and_from_anywhere_the_same(model_dir: Path, tmp_path: Path) -> None:
    count = 5 * BLOCK_ROWS + 7
    plan = stream_plan(model_dir, text_rows(tmp_path / "rows.jsonl", count), stream_workers=2)
    whole = ids_of(plan, range(count + 40))
    assert sorted(whole[:count]) == sorted(f"p{n}" for n in range(count))
    for start in (1, BLOCK_ROWS, 211):
        assert ids_of(plan, range(start, count + 40)) == whole[start:]


def test_batches_keep_their_positions_when_rows_are_bad(model_dir: Path, tmp_path: Path) -> None:
    bad = frozenset({3, 50, 51, 52, 53})
    plan = stream_plan(model_dir, text_rows(tmp_path / "rows.jsonl", 150, bad))
    shares = [range(first, first + 10) for first in range(0, 150, 10)]
    aside: list[Rejected] = []
    tables = list(stream_batches(plan, shares, aside.append))
    assert {r.bad.row for r in aside} == bad
    assert all("response is a int" in r.bad.reason for r in aside)
    assert all(r.original["response"] == 3 for r in aside)
    for table, share in zip(tables, shares, strict=True):
        assert table.schema.equals(TRAINING_ROW)
        assert set(table.column("row").to_pylist()) <= set(share)
    found = [prompt_id for table in tables for prompt_id in table.column("prompt_id").to_pylist()]
    assert sorted(found) == sorted(f"p{n}" for n in range(150) if n not in bad)


def test_a_file_that_changes_is_an_error(model_dir: Path, tmp_path: Path) -> None:
    plan = stream_plan(model_dir, text_rows(tmp_path / "rows.jsonl", 100))
    text_rows(tmp_path / "rows.jsonl", 50)
    with pytest.raises(DataError, match=r"rows.jsonl was changed while it was read"):
        list(stream(plan, range(10)))


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_held_rows_come_in_the_same_batches_whoever_shares_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, world_size: int
) -> None:
    monkeypatch.setattr("mmrlhf_ray.pipelines.supervised.rows._BLOCK_ROWS", 3)
    count, size = 23, 8
    empty = {name: [None] * count for name in TRAINING_ROW.names}
    table = pa.Table.from_pydict(empty | {"row": list(range(count))}, schema=TRAINING_ROW)
    rows = HeldRows.planned(count, seed=5).holding(table)
    cfg = sft_config(DataConfig(path="none"), tmp_path, tmp_path, batch_size=size, workers={"replicas": world_size})
    shares = [Share(cfg, tmp_path, rank, world_size) for rank in range(world_size)]

    def joined(batches: list[list[pa.Table]]) -> list[list[int]]:
        return [
            [row for part in parts for row in part.column("row").to_pylist()] for parts in zip(*batches, strict=True)
        ]

    steps = joined([list(rows.train_batches(share, range(6))) for share in shares])
    one = [t.column("row").to_pylist() for t in rows.train_batches(Share(cfg, tmp_path, 0, 1), range(6))]
    assert steps == one, "as one rank has them"
    assert joined([list(rows.train_batches(share, range(3, 6))) for share in shares]) == steps[3:]
    epochs = [[*steps[first], *steps[first + 1]] for first in (0, 2, 4)]
    assert all(len(set(epoch)) == 16 for epoch in epochs), "no row twice in an epoch"
    assert epochs[0] != epochs[1] != epochs[2]
    seen = [row for share in shares for t in rows.eval_batches(share) for row in t.column("row").to_pylist()]
    assert sorted(seen) == list(range(count))


@pytest.mark.parametrize("world_size", [1, 2])
def test_added_rows_have_their_share_of_every_batch(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, world_size: int
) -> None:
    monkeypatch.setattr("mmrlhf_ray.pipelines.supervised.rows._BLOCK_ROWS", 3)
    empty = {name: [None] for name in TRAINING_ROW.names}

    def table(rows: range) -> pa.Table:
        return pa.Table.from_pydict({n: v * len(rows) for n, v in empty.items()} | {"row": rows}, schema=TRAINING_ROW)

    rows = HeldRows.planned(24, seed=5).mixed(10, 0.25).holding(table(range(24)), table(range(100, 110)))
    assert (rows.count, rows.steps(2, 8)) == (32, 8)
    cfg = sft_config(DataConfig(path="none"), tmp_path, tmp_path, batch_size=8, workers={"replicas": world_size})
    shares = [Share(cfg, tmp_path, rank, world_size) for rank in range(world_size)]

    def batches(steps: range) -> list[list[int]]:
        parts = [[t.column("row").to_pylist() for t in rows.train_batches(share, steps)] for share in shares]
        return [[row for part in step for row in part] for step in zip(*parts, strict=True)]

    all_steps = batches(range(8))
    assert [sum(row >= 100 for row in step) for step in all_steps] == [2] * 8
    assert sorted(row for step in all_steps[:4] for row in step if row < 100) == list(range(24)), "each once an epoch"
    assert batches(range(3, 8)) == all_steps[3:], "a resumed run has the same rows"


def sft_config(data: DataConfig, model_dir: Path, output: Path, **options: Any) -> SFTConfig:
    return SFTConfig(
        **{
            "name": "sft",
            "output_dir": str(output),
            "device": "cpu",
            "model": ModelConfig(path=str(model_dir)),
            "data": data,
            "learner": {
                "engine": EngineConfig(zero_stage=2, micro_batch_tokens=2048, max_padding_share=0.3),
                "optimizer": OptimizerConfig(lr=3e-4),
            },
            "workers": {"replicas": 2, "num_cpus": 0.2},
            "batch_size": 8,
            "steps": STEPS,
            "log_every_steps": 1,
            "checkpoint": {"every_steps": CHECKPOINT},
            "deadlines": {"start_s": 600, "stage_s": 300},
        }
        | options
    )


def test_a_streamed_run_and_its_resumption(model_dir: Path, data_dir: Path, tmp_path: Path) -> None:
    """All modalities, one bad row that turns up midway, one held-out row for two workers. Its output is on object
    storage, and it is resumed where nothing of it is, on one worker."""
    records = pq.read_table(data_dir / "demonstrations/records.parquet")
    (tmp_path / "data").mkdir()
    rows = records.to_pylist()
    rows[7]["response"] = ""
    pq.write_table(type(records).from_pylist(rows, schema=records.schema), tmp_path / "data/records.parquet")
    (tmp_path / "data/media.parquet").write_bytes((data_dir / "demonstrations/media.parquet").read_bytes())
    (tmp_path / "one").mkdir()
    pq.write_table(records.slice(0, 1), tmp_path / "one/records.parquet")
    (tmp_path / "one/media.parquet").write_bytes((data_dir / "demonstrations/media.parquet").read_bytes())
    data = {"streaming": True, "max_prompt_tokens": 64, "on_bad_row": "quarantine", "check_rows": 4}
    cfg = sft_config(
        DataConfig(path=str(tmp_path / "data"), **data),
        model_dir,
        tmp_path,
        eval_data=DataConfig(path=str(tmp_path / "one"), max_prompt_tokens=64, streaming=True),
        output_dir=f"memory://{uuid4().hex}",
        work_dir=str(tmp_path / "here"),
    )
    run_dir = sft.run(cfg)
    assert run_dir == tmp_path / "here" / "sft"
    metrics = read_metrics(run_dir)
    assert [row["step"] for row in metrics] == list(range(STEPS))
    assert metrics[-1]["loss"] < metrics[0]["loss"]
    assert metrics[-1]["eval_loss"] > 0
    aside = [json.loads(line) for line in (run_dir / FILE_NAME).read_text().splitlines()]
    assert [(entry["row"], entry["reason"]) for entry in aside] == [(7, "response is empty")]

    storage = fsspec.filesystem("memory")
    root = f"/{cfg.output_dir.removeprefix('memory://')}/sft"
    uploaded = {file.removeprefix(f"{root}/") for file in storage.find(root)}
    assert uploaded >= {"config.yaml", "metrics.jsonl", "model/config.json", "model/model.safetensors", FILE_NAME}
    assert f"checkpoints/step-{STEPS:08d}/manifest.json" in uploaded
    storage.rm(f"{root}/checkpoints/step-{STEPS:08d}", recursive=True)  # ended before it was written
    alone = cfg.workers.model_copy(update={"replicas": 1})
    changes = {"work_dir": str(tmp_path / "elsewhere"), "workers": alone}
    resumed = sft.run(cfg.model_copy(update=changes), resume=True)
    assert resumed == tmp_path / "elsewhere" / "sft"
    again = read_metrics(resumed)
    assert storage.cat_file(f"{root}/metrics.jsonl") == (resumed / "metrics.jsonl").read_bytes()
    storage.rm(root, recursive=True)
    assert [row["step"] for row in again] == list(range(STEPS))
    assert again[CHECKPOINT]["time"] > metrics[-1]["time"]
    for before, after in zip(metrics, again, strict=True):
        del before["time"], after["time"]
        assert after == pytest.approx(before, rel=1e-4, abs=1e-6)


def test_one_held_out_row_is_enough_for_two_workers(model_dir: Path, tmp_path: Path) -> None:
    """Trained on copies of the row that is held out, at a learning rate of next to nothing: the losses are equal."""
    one, same = ({"prompt": "one", "response": "answer : odd", "prompt_id": f"p{n}"} for n in range(2))
    (tmp_path / "one.jsonl").write_text(json.dumps(one))
    (tmp_path / "many.jsonl").write_text((json.dumps(same) + "\n") * 8)
    held, train = (DataConfig(path=str(tmp_path / f"{name}.jsonl"), max_prompt_tokens=64) for name in ("one", "many"))
    options = {"eval_data": held, "steps": 1, "learner": {"optimizer": OptimizerConfig(lr=1e-12)}}
    (row,) = read_metrics(sft.run(sft_config(train, model_dir, tmp_path, **options)))
    assert row["eval_loss"] == pytest.approx(row["loss"], rel=1e-5)


def test_a_bad_row_midway_stops_the_run_and_is_named(model_dir: Path, tmp_path: Path) -> None:
    path = text_rows(tmp_path / "rows.jsonl", 48, frozenset({17}))
    data = DataConfig(path=str(path), streaming=True, max_prompt_tokens=64, check_rows=1)
    with pytest.raises(DataError, match=r"rows.jsonl, line 18 \(p17\): response is a int"):
        sft.run(sft_config(data, model_dir, tmp_path))
