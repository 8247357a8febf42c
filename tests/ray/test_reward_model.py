"""Reward models trained on Ray Train on pairs, rankings and ratings, and their report on every held-out record."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import torch

from mmrlhf_ray.config import DataConfig, ModelConfig, OptimizerConfig, RewardModelConfig
from mmrlhf_ray.config.learner import EngineConfig, LearnerConfig
from mmrlhf_ray.config.placement import LearnerPlacement
from mmrlhf_ray.data.batches.batching import MicroBatch
from mmrlhf_ray.data.batches.collate import TokenRow
from mmrlhf_ray.data.encoding.encode import load_encoder
from mmrlhf_ray.data.encoding.training_rows import EncodeOptions, encode_records, features_from_bytes
from mmrlhf_ray.data.records.readers import read_records, write_records
from mmrlhf_ray.errors import DataError
from mmrlhf_ray.models import ScalarHead, load_scalar, read_scalar_head
from mmrlhf_ray.pipelines.supervised import reward_model
from mmrlhf_ray.runtime.metrics import read_metrics
from mmrlhf_ray.schema import DEMONSTRATION, EVAL_SCORE, PREFERENCE, RANKING
from mmrlhf_ray.training.passes import Inference, Passes

HELD_OUT = 7
"""An odd number, which two workers cannot share equally."""
OPTIMIZER = OptimizerConfig(lr=1e-3)

pytestmark = pytest.mark.usefixtures("session")


@pytest.fixture(scope="module")
def feedback_dir(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`pairs` and `rankings`, and `…_heldout` of each, made of demonstrations: the right answer is best."""
    target = tmp_path_factory.mktemp("feedback")
    read = read_records(DataConfig(path=str(data_dir / "demonstrations")), DEMONSTRATION, target)
    rows = read.records.to_pylist()
    pairs, rankings = [], []
    for number, row in enumerate(rows):
        prompt = {name: row[name] for name in PREFERENCE.names if name in row}
        wrong = next(r["response"] for r in rows[number + 1 :] + rows if r["response"] != row["response"])
        pairs.append(prompt | {"chosen": row["response"], "rejected": wrong, "margin": 0.5})
        said = [wrong, row["response"], row["response"] + " " + wrong][: 2 + number % 2]
        correct: list[float | None] = [0.0, 1.0, 0.5]
        aspects = {"correct": correct[: len(said)], "brief": [1.0, None, 0.0][: len(said)]}
        ranking = {"responses": said, "ranks": [3, 1, 2][: len(said)], "aspects": json.dumps(aspects)}
        rankings.append(prompt | ranking)
    for name, made, schema in (("pairs", pairs, PREFERENCE), ("rankings", rankings, RANKING)):
        write_records(target / name, pa.Table.from_pylist(made[HELD_OUT:], schema), read.media)
        write_records(target / f"{name}_heldout", pa.Table.from_pylist(made[:HELD_OUT], schema), read.media)
    return target


def config(feedback_dir: Path, model_dir: Path, output: Path, records: str, **keys: Any) -> RewardModelConfig:
    data = {"facts_column": "facts", "max_prompt_tokens": 64}
    return RewardModelConfig(
        name="rm",
        output_dir=str(output),
        device="cpu",
        model=ModelConfig(path=str(model_dir)),
        data=DataConfig(path=str(feedback_dir / records), **data),
        eval_data=DataConfig(path=str(feedback_dir / f"{records}_heldout"), **data),
        learner=LearnerConfig(engine=EngineConfig(zero_stage=2, max_padding_share=0.3), optimizer=OPTIMIZER),
        workers=LearnerPlacement(num_cpus=0.2),
        batch_size=8,
        steps=3,
        **keys,
    )


def exported_scores(cfg: RewardModelConfig, run_dir: Path, schema: pa.Schema) -> list[tuple[float, float]]:
    """Score and uncertainty of every held-out response, one process, one response at a time."""
    assert cfg.eval_data is not None
    model, encoder = run_dir / "model", load_encoder(run_dir / "model")
    read = read_records(cfg.eval_data, schema, run_dir)
    numbered = read.records.append_column("row", pa.array(range(len(read.records)), pa.int64()))
    options = EncodeOptions(str(model), cfg.eval_data.facts_column, 64, 4096, tuple(cfg.aspects))
    table = encode_records(numbered, options, [ray.put(read.media)])
    scalar = load_scalar(encoder.adapter, model, torch.float32, new_head=False)
    passes, layout = Passes(Inference(scalar), encoder, torch.device("cpu")), read_scalar_head(model)
    columns = [table.column(n).to_pylist() for n in ("context_token_ids", "responses_token_ids", "media_ids")]
    sequences = [TokenRow(c, r, m) for c, rs, m in zip(*columns, strict=True) for r in rs]
    features = features_from_bytes(table.column("features").to_pylist())
    plan = [MicroBatch((i,)) for i in range(len(sequences))]
    outputs = passes.infer(sequences, features, plan, lambda output, _: output, at_last=True)
    return [(float(s[0]), float(u[0])) for s, u in (layout.score(values) for _, values in outputs)]


def assert_written(cfg: RewardModelConfig, run_dir: Path, schema: pa.Schema, sizes: Sequence[int]) -> list[dict]:
    """Every held-out response once, with the exported model's own scores; returns the rows."""
    written = pq.read_table(run_dir / "eval_scores.parquet")
    assert written.schema.equals(EVAL_SCORE)
    rows = written.to_pylist()
    assert [(r["row"], r["response"]) for r in rows] == [(i, k) for i, size in enumerate(sizes) for k in range(size)]
    want = np.array(exported_scores(cfg, run_dir, schema))
    np.testing.assert_allclose([[r["score"], r["uncertainty"]] for r in rows], want, atol=1e-4)
    summary = json.loads((run_dir / "reward_model.json").read_text())
    last = read_metrics(run_dir)[-1]
    assert summary["overall"]["accuracy"]["estimate"] == pytest.approx(last["eval_pair_accuracy"])
    assert (summary["rows"], summary["responses"]) == (HELD_OUT, len(rows))
    assert "Reward model rm" in (run_dir / "report.html").read_text()
    return rows


def test_an_ensemble_on_pairs(
    feedback_dir: Path, model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = config(
        feedback_dir, model_dir, tmp_path, "pairs", ensemble=3, center_coef=0.01, label_smoothing=0.1, margin_coef=1.0
    )
    run_dir = reward_model.run(cfg)
    assert read_scalar_head(run_dir / "model") == ScalarHead(3)
    rows = assert_written(cfg, run_dir, PREFERENCE, [2] * HELD_OUT)
    assert [r["rank"] for r in rows] == [1, 2] * HELD_OUT
    assert all(r["uncertainty"] > 0 and len(r["members"]) == 3 for r in rows)
    summary = json.loads((run_dir / "reward_model.json").read_text())
    assert [third["pairs"] for third in summary["by_uncertainty"].values()] == [3, 2, 2]
    assert sum(group["pairs"] for group in summary["by_task"].values()) == HELD_OUT
    assert "7 held-out pairs: pair accuracy" in capsys.readouterr().out
    assert read_metrics(run_dir)[-1]["eval_uncertainty"] > 0


def test_rankings(feedback_dir: Path, model_dir: Path, tmp_path: Path) -> None:
    cfg = config(feedback_dir, model_dir, tmp_path, "rankings", objective="plackett_luce", ensemble=2)
    run_dir = reward_model.run(cfg)
    rows = assert_written(cfg, run_dir, RANKING, [2 + i % 2 for i in range(HELD_OUT)])
    assert [r["rank"] for r in rows[:5]] == [3, 1, 3, 1, 2]
    summary = json.loads((run_dir / "reward_model.json").read_text())
    assert summary["overall"]["pairs"] == 4 * 1 + 3 * 3


def test_ratings(feedback_dir: Path, model_dir: Path, tmp_path: Path) -> None:
    aspects = {"correct": 1.0, "brief": 0.25}
    cfg = config(feedback_dir, model_dir, tmp_path, "rankings", objective="rating", aspects=aspects)
    run_dir = reward_model.run(cfg)
    assert read_scalar_head(run_dir / "model") == ScalarHead(1, aspects)
    rows = assert_written(cfg, run_dir, RANKING, [2 + i % 2 for i in range(HELD_OUT)])
    assert [len(r["aspects"]) for r in rows] == [2] * len(rows)
    assert (rows[0]["ratings"], rows[0]["rank"]) == ([0.0, 1.0], 1)
    assert (rows[1]["rank"], math.isnan(rows[1]["ratings"][1])) == (0, True)  # nobody rated how brief it is
    summary = json.loads((run_dir / "reward_model.json").read_text())
    assert summary["overall"]["calibration"] is None
    assert {name: e["ratings"] for name, e in summary["aspects"].items()} == {"correct": 17, "brief": 10}
    last = read_metrics(run_dir)[-1]
    for name in aspects:
        assert last[f"eval_error_{name}"] == pytest.approx(summary["aspects"][name]["mean_absolute"], abs=1e-5)


def test_rankings_without_ranks_are_bad_records(feedback_dir: Path, model_dir: Path, tmp_path: Path) -> None:
    read = read_records(DataConfig(path=str(feedback_dir / "rankings")), RANKING, tmp_path)
    rows = read.records.to_pylist()
    rows[2]["ranks"] = []
    write_records(tmp_path / "rankings", pa.Table.from_pylist(rows, RANKING), read.media)
    cfg = config(feedback_dir, model_dir, tmp_path, "rankings", objective="plackett_luce")
    cfg = cfg.model_copy(update={"data": DataConfig(path=str(tmp_path / "rankings"))})
    with pytest.raises(DataError, match="the responses have no ranks"):
        reward_model.run(cfg)
