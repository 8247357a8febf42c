"""`mmrlhf preference` with real Ray Data, Ray Train and DeepSpeed: it learns, resumes, and computes references once."""

import math
import shutil
from itertools import chain
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ray.util.annotations import RayDeprecationWarning

from mmrlhf_ray.config import DataConfig, EngineConfig, ModelConfig, OptimizerConfig, PreferenceConfig
from mmrlhf_ray.data.batches.batching import PassBudget
from mmrlhf_ray.data.encoding.encode import load_encoder
from mmrlhf_ray.data.records.readers import read_records, write_records
from mmrlhf_ray.demo.model import build_model
from mmrlhf_ray.errors import ModelError
from mmrlhf_ray.pipelines.preference import job as preference
from mmrlhf_ray.pipelines.preference.ref_logprobs import CACHE_FILE, with_ref_logprobs
from mmrlhf_ray.runtime.metrics import read_metrics
from mmrlhf_ray.schema import DEMONSTRATION, PREFERENCE, TRAINING_ROW, check
from mmrlhf_ray.workers.roles.reference_rows import ReferenceRows
from tests.unit.training.rows import NUMBERS, media_rows

STEPS = 6
CHECKPOINT = 4

pytestmark = pytest.mark.usefixtures("session")


@pytest.fixture(scope="module")
def pairs(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demonstrations of all modalities, each preferred to the answer of another prompt."""
    path = tmp_path_factory.mktemp("pairs")
    read = read_records(DataConfig(path=str(data_dir / "demonstrations")), DEMONSTRATION, path)
    rows = read.records.to_pylist()
    answers = [row.pop("response") for row in rows]
    for number, (row, own) in enumerate(zip(rows, answers, strict=True)):
        other = next(answer for answer in answers[number + 1 :] + answers if answer != own)
        row.pop("feedback")
        row |= {"chosen": own, "rejected": other, "margin": 1.0}
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


def learnt(row: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in row.items() if name != "time"}


@pytest.mark.parametrize("objective", ["dpo", "kto"])
def test_a_run_and_its_resumption(objective: str, pairs: Path, model_dir: Path, tmp_path: Path) -> None:
    cfg = config(objective, pairs, model_dir, tmp_path)
    run_dir = preference.run(cfg)
    rows = read_metrics(run_dir)
    assert [row["step"] for row in rows] == list(range(STEPS))
    # The policy starts as its reference: nothing is preferred yet.
    assert rows[0]["loss"] == pytest.approx({"dpo": math.log(2.0), "kto": 0.5}[objective], rel=1e-4)
    assert rows[0]["log_ratio_chosen"] == pytest.approx(0.0, abs=1e-4)
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert rows[-1]["eval_preference_accuracy"] > 0.5
    assert rows[-1]["eval_reward_margin"] > 0
    assert (run_dir / "model" / "model.safetensors").is_file()

    kept = run_dir / CACHE_FILE
    responses = [len(row) for row in pq.read_table(kept).column("ref_logprobs").to_pylist()]
    assert responses == [3 if objective == "kto" else 2] * (2 * 26)  # for training and evaluation
    written = kept.stat().st_mtime_ns
    preference.run(cfg, resume=True)
    assert read_metrics(run_dir) == rows, "it is finished"
    shutil.rmtree(run_dir / "checkpoints" / f"step-{STEPS:08d}")  # ended before it was written
    preference.run(cfg, resume=True)
    assert kept.stat().st_mtime_ns == written
    again = read_metrics(run_dir)
    assert [row["step"] for row in again] == list(range(STEPS))
    assert again[:CHECKPOINT] == rows[:CHECKPOINT]
    assert again[CHECKPOINT]["time"] > rows[-1]["time"]
    for before, after in zip(rows, again, strict=True):
        assert learnt(after) == pytest.approx(learnt(before), rel=1e-5, abs=1e-6)


def test_references_are_computed_once_and_anew_for_another_model(
    model_dir: Path, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    encoder = load_encoder(model_dir)
    rows = media_rows(encoder, NUMBERS, [[0.0] * len(of_row) for of_row in NUMBERS])
    cfg = config("dpo", tmp_path, model_dir, tmp_path)

    def computed(reference: ModelConfig) -> tuple[pa.Table, int]:
        return with_ref_logprobs(rows, reference, cfg, tmp_path), (tmp_path / CACHE_FILE).stat().st_mtime_ns

    first, written = computed(cfg.model)
    assert not [w for w in recwarn if issubclass(w.category, RayDeprecationWarning)], "no user can do anything about it"
    assert check(first, TRAINING_ROW, "test").drop_columns(["ref_logprobs"]).equals(rows.drop_columns(["ref_logprobs"]))
    alone = ReferenceRows(cfg.model, PassBudget(2048), "cpu")(rows)
    lists = (table.column("ref_logprobs").to_pylist() for table in (first, alone))
    for got, want in zip(*(chain.from_iterable(of_rows) for of_rows in lists), strict=True):
        assert got == pytest.approx(want, abs=1e-4)
    again, kept = computed(cfg.model)
    assert again.equals(first)
    assert kept == written

    build_model(tmp_path / "other", seed=1)
    other, anew = computed(ModelConfig(path=str(tmp_path / "other")))
    assert anew > written
    assert not other.column("ref_logprobs").equals(first.column("ref_logprobs"))


def test_a_reference_that_fails_is_the_run_s_error(model_dir: Path, tmp_path: Path) -> None:
    rows = media_rows(load_encoder(model_dir), [[0]] * 5, [[0.0]] * 5)
    broken = tmp_path / "broken"
    shutil.copytree(model_dir, broken)
    (broken / "model.safetensors").write_bytes(b"no weights")
    cfg = config("dpo", tmp_path, model_dir, tmp_path)
    with pytest.raises(ModelError, match=f"{broken}: its weights cannot be read"):
        with_ref_logprobs(rows, ModelConfig(path=str(broken)), cfg, tmp_path)
    assert not (tmp_path / CACHE_FILE).exists()
