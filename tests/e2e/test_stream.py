"""Sampling and learning at the same time, with the real vLLM and DeepSpeed, on prompts of all modalities."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from mmrlhf_ray.runtime.metrics import read_metrics
from mmrlhf_ray.training.checkpoint import best_complete
from mmrlhf_ray.weights.layout import InFlight
from tests.command import Here

STEPS = 5

pytestmark = pytest.mark.e2e


def stream_job(ppo_job: Path, directory: Path, stream: Mapping[str, Any], *, critic: bool) -> dict[str, Any]:
    """GRPO, or PPO with a critic, whose sampler runs ahead; the run is in `directory`."""
    values: dict[str, Any] = yaml.safe_load(ppo_job.read_text())
    values["placement"]["policy"]["replicas"] = 1
    algorithm = {
        "mismatch": {"correction": "tis"},
        "prompts_per_step": 6,
        "n_samples_per_prompt": 2,
        "mini_batch_size": 12,
    }
    if critic:
        values["placement"]["critic"]["replicas"] = 1
    else:
        del values["critic"], values["placement"]["critic"]
        algorithm |= {"advantage_estimator": "grpo", "kl_in": "loss", "kl_estimator": "k3"}
    return values | {"steps": STEPS, "output_dir": str(directory), "stream": dict(stream), "algorithm": algorithm}


def stream_rows(here: Here, values: Mapping[str, Any], directory: Path) -> list[dict[str, float]]:
    """The metrics of its steps, which say that each trained on whole batches of what was not too old."""
    (directory / "job.yaml").write_text(yaml.safe_dump(dict(values)))
    finished = here("ppo", str(directory / "job.yaml"), cwd=directory)
    assert finished.returncode == 0, finished.err
    rows = read_metrics(directory / "run")
    assert [row["step"] for row in rows] == list(range(STEPS))
    assert rows[0]["mismatch_max"] < 1e-4, "at step 0 sampler and learner are one model"
    assert all(row["responses"] == 12 and row["dropped_stale"] == 0 for row in rows)
    staleness = [row["staleness_max"] for row in rows]
    assert staleness[0] == 0.0
    assert max(staleness) == values["stream"]["max_staleness"]
    return rows


def test_a_policy_learns_from_what_was_sampled_while_it_learned(
    here: Here, ppo_job: Path, data_dir: Path, tmp_path: Path
) -> None:
    values = stream_job(ppo_job, tmp_path, {"max_staleness": 1, "in_flight": "keep"}, critic=False)
    held_out = values["data"] | {"path": str(data_dir / "prompts_heldout")}
    values |= {"eval_data": held_out, "eval_every_steps": 3}
    values["checkpoint"] = {"every_steps": 100, "keep": 1, "best": "eval_score"}
    values["placement"]["eval_encoder"] = {"num_cpus": 0.2}
    rows = stream_rows(here, values, tmp_path)
    assert [row["step"] for row in rows if "eval_score" in row] == [2, 4]
    for row in (rows[2], rows[4]):
        assert row["eval_score_low"] < row["eval_score"] == row["eval_reward_reward_model"] < row["eval_score_high"]
        assert abs(row["eval_kl"]) < 8.0 >= row["eval_response_tokens"] > 1.0
    assert rows[2]["eval_score"] != rows[4]["eval_score"], "the policy has learned meanwhile"
    best = 3 if rows[2]["eval_score"] >= rows[4]["eval_score"] else 5
    kept = sorted(path.name for path in (tmp_path / "run" / "checkpoints").glob("step-*"))
    assert kept == sorted({f"step-{step:08d}" for step in (best, 5)})
    assert best_complete(tmp_path / "run").manifest.step == best
    shown = [pq.read_table(file).num_rows for file in sorted((tmp_path / "run" / "rollouts").glob("*.parquet"))]
    assert shown == [12] * STEPS


@pytest.mark.parametrize("in_flight", ["recompute"])  # the other modes: tests/chaos/test_ahead.py
def test_a_critic_learns_with_a_sampler_two_steps_ahead(
    here: Here, ppo_job: Path, tmp_path: Path, in_flight: InFlight
) -> None:
    stream = {"max_staleness": 2, "in_flight": in_flight}
    rows = stream_rows(here, stream_job(ppo_job, tmp_path, stream, critic=True), tmp_path)
    assert all(row["value_loss"] > 0 for row in rows)
