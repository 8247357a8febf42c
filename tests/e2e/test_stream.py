"""Sampling and learning at the same time, with the real vLLM and DeepSpeed, on prompts of all modalities."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from mmrlhf_ray.runtime.metrics import read_metrics
from tests.e2e.support import Here

STEPS = 5

pytestmark = pytest.mark.e2e


def test_a_policy_learns_from_what_was_sampled_while_it_learned(
    here: Here, ppo_job: Path, data_dir: Path, tmp_path: Path
) -> None:
    values = yaml.safe_load(ppo_job.read_text())
    del values["critic"], values["placement"]["critic"]
    values["placement"]["policy"]["replicas"] = 1
    values |= {"steps": STEPS, "output_dir": str(tmp_path), "stream": {"max_staleness": 1, "in_flight": "keep"}}
    values["algorithm"] = {
        "advantage_estimator": "grpo",
        "kl_in": "loss",
        "kl_estimator": "k3",
        "mismatch": {"correction": "tis"},
        "prompts_per_step": 6,
        "n_samples_per_prompt": 2,
        "mini_batch_size": 12,
    }
    held_out = values["data"] | {"path": str(data_dir / "prompts_heldout")}
    values |= {"eval_data": held_out, "eval_every_steps": 3}
    values["placement"]["eval_encoder"] = {"num_cpus": 0.2}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(values))
    finished = here("ppo", str(tmp_path / "job.yaml"), cwd=tmp_path)
    assert finished.returncode == 0, finished.err
    rows = read_metrics(tmp_path / "run")
    assert [row["step"] for row in rows] == list(range(STEPS))
    assert rows[0]["mismatch_max"] < 1e-4, "at step 0 sampler and learner are one model"
    assert all(row["responses"] == 12 and row["dropped_stale"] == 0 for row in rows)
    staleness = [row["staleness_max"] for row in rows]
    assert staleness[0] == 0.0
    assert max(staleness) == 1.0
    assert [row["step"] for row in rows if "eval_score" in row] == [2, 4]
    for row in (rows[2], rows[4]):
        assert row["eval_score_low"] < row["eval_score"] == row["eval_reward_reward_model"] < row["eval_score_high"]
        assert abs(row["eval_kl"]) < 8.0 >= row["eval_response_tokens"] > 1.0
    assert rows[2]["eval_score"] != rows[4]["eval_score"], "the policy has learned meanwhile"
    shown = [pq.read_table(file).num_rows for file in sorted((tmp_path / "run" / "rollouts").glob("*.parquet"))]
    assert shown == [12] * STEPS
