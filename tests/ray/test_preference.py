"""`mmrlhf preference` with real Ray Data, Ray Train and DeepSpeed: it learns, resumes, and computes references once."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmrlhf_ray.config import DataConfig, EngineConfig, ModelConfig, OptimizerConfig, PreferenceConfig
from mmrlhf_ray.data.readers import read_records, write_records
from mmrlhf_ray.pipelines import preference
from mmrlhf_ray.runtime.metrics import read_metrics
from mmrlhf_ray.runtime.session import ray_session
from mmrlhf_ray.schema import DEMONSTRATION, PREFERENCE

STEPS = 6
CHECKPOINT = 4


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    with ray_session(num_cpus=2):
        yield


@pytest.fixture(scope="module")
def pairs(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demonstrations of all modalities, each preferred to the answer of another prompt."""
    path = tmp_path_factory.mktemp("pairs")
    read = read_records(DataConfig(path=str(data_dir / "demonstrations")), DEMONSTRATION, path)
    rows = read.records.to_pylist()
    for row, other in zip(rows, [*rows[1:], rows[0]], strict=True):
        row |= {"chosen": row.pop("response"), "rejected": f"{other['response']} no", "margin": 1.0}
        row.pop("feedback")
    write_records(path / "records", pa.Table.from_pylist(rows, PREFERENCE), read.media)
    return path / "records"


def config(objective: str, pairs: Path, model_dir: Path, output: Path, **options: object) -> PreferenceConfig:
    return PreferenceConfig(
        **{
            "name": objective,
            "output_dir": str(output),
            "device": "cpu",
            "objective": objective,
            "model": ModelConfig(path=str(model_dir)),
            "data": DataConfig(path=str(pairs), max_prompt_tokens=64),
            "eval_data": DataConfig(path=str(pairs), max_prompt_tokens=64),
            "engine": EngineConfig(zero_stage=2, micro_batch_tokens=2048, max_padding_share=0.3),
            "optimizer": OptimizerConfig(lr=3e-4),
            "workers": {"replicas": 2, "num_cpus": 0.2},
            "batch_size": 8,
            "steps": STEPS,
            "log_every_steps": 1,
            "checkpoint": {"every_steps": CHECKPOINT},
            "deadlines": {"start_s": 240, "stage_s": 120},
        }
        | options
    )


def learnt(row: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in row.items() if name != "time"}


@pytest.mark.parametrize("objective", ["dpo", "kto"])
def test_a_run_and_its_resumption(objective: str, pairs: Path, model_dir: Path, tmp_path: Path) -> None:
    cfg = config(objective, pairs, model_dir, tmp_path)
    run_dir = preference.run(cfg)
    rows = read_metrics(run_dir)
    assert [row["step"] for row in rows] == list(range(STEPS))
    # The policy starts as its reference: nothing is preferred yet.
    assert rows[0]["preference_accuracy"] == 0.5
    assert rows[0]["log_ratio_chosen"] == pytest.approx(0.0, abs=1e-4)
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert rows[-1]["eval_preference_accuracy"] > 0.5
    assert rows[-1]["eval_reward_margin"] > 0
    assert (run_dir / "model" / "model.safetensors").is_file()

    kept = {split: run_dir / f"ref_logprobs-{split}.parquet" for split in ("train", "eval")}
    responses = {len(row) for row in pq.read_table(kept["train"]).column("ref_logprobs").to_pylist()}
    assert responses == {3 if objective == "kto" else 2}
    written = {split: file.stat().st_mtime_ns for split, file in kept.items()}
    preference.run(cfg, resume=True)
    assert {split: file.stat().st_mtime_ns for split, file in kept.items()} == written
    again = read_metrics(run_dir)
    assert [row["step"] for row in again] == list(range(STEPS))
    assert again[:CHECKPOINT] == rows[:CHECKPOINT]
    assert again[CHECKPOINT]["time"] > rows[-1]["time"]
    for before, after in zip(rows, again, strict=True):
        assert learnt(after) == pytest.approx(learnt(before), rel=1e-5, abs=1e-6)


def test_another_reference_is_computed_anew_and_none_where_none_is_needed(
    pairs: Path, model_dir: Path, tmp_path: Path
) -> None:
    first = preference.run(config("dpo", pairs, model_dir, tmp_path, steps=2, eval_data=None))
    before = pq.read_table(first / "ref_logprobs-train.parquet")
    reference = ModelConfig(path=str(first / "model"))
    other = config("dpo", pairs, model_dir, tmp_path, steps=1, eval_data=None, reference=reference)
    preference.run(other)
    after = pq.read_table(first / "ref_logprobs-train.parquet")
    assert before.schema.metadata != after.schema.metadata
    assert not before.equals(after)
    free = preference.run(config("simpo", pairs, model_dir, tmp_path, steps=1, eval_data=None))
    assert not list(free.glob("ref_logprobs*"))
    assert "log_ratio_chosen" not in read_metrics(free)[0]
