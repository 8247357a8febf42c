"""A run without a critic: groups, refilled prompts, several rewards, a cost, missing scores."""

from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from mmrlhf_ray.runtime.metrics import read_metrics
from tests.command import Here

STEPS = 4
REWARDS = """
def unsure(data_source, solution_str, ground_truth, extra_info):
    if data_source == "text_parity":
        raise ValueError("no opinion on text")
    return len(solution_str) % 7 / 7


def words(prompts, completions, **columns):
    return [float(len(text.split())) for text in completions]
"""

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def job(ppo_job: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("algorithms")
    (directory / "rewards.py").write_text(REWARDS)
    own = f"{directory}/rewards.py"
    values = yaml.safe_load(ppo_job.read_text())
    del values["critic"]
    del values["placement"]["critic"]
    values["placement"]["functions"] = {"num_cpus": 0.2}
    values |= {"steps": STEPS, "output_dir": str(directory), "reference_engine": "zero3"}
    values["rewards"] += [
        {"name": "unsure", "kind": "function", "function": f"{own}:unsure", "convention": "verl",
         "on_missing": "drop", "normalise": True},
        {"name": "words", "kind": "function", "function": f"{own}:words", "cost": {"bound": 3.0}},
        {"name": "fluency", "kind": "fluency", "weight": 0.1},
    ]  # fmt: skip
    values["algorithm"] = {
        "advantage_estimator": "grpo",
        "aggregation": "sequence_mean",
        "policy_loss": "gspo",
        "clip_range": 0.1,
        "kl_in": "loss",
        "kl_estimator": "k3",
        "entropy_coef": 0.01,
        "mismatch": {"correction": "icepop"},
        "score_normalisation": "modality",
        "overlong": {"buffer_tokens": 2},
        "dynamic_sampling": {},
        "prompts_per_step": 9,
        "n_samples_per_prompt": 2,
        "mini_batch_size": 18,  # one optimizer step, whose own pass serves for old_logprobs
    }
    (directory / "job.yaml").write_text(yaml.safe_dump(values))
    return directory / "job.yaml"


def test_missing_scores_costs_and_refilled_prompts_in_one_run(here: Here, job: Path, tmp_path: Path) -> None:
    finished = here("ppo", str(job), cwd=tmp_path)
    assert finished.returncode == 0, finished.err
    assert "unsure" in finished.err
    assert "no opinion on text" in finished.err
    rows = read_metrics(job.parent / "run")
    assert [row["step"] for row in rows] == list(range(STEPS))
    for row in rows:
        assert "value_loss" not in row
        assert row["kl_loss"] >= 0.0
        # Two of thirteen prompts are text alone, whose score is missing: others are sampled in their place.
        assert row["responses"] == 18
        assert row["mismatch_max"] < 1e-4
        assert (row["seconds_old_logprobs"] == 0.0) == (row["step"] > 0), "the gate's pass, and no other"
        assert row["step"] == 0 or row["ratio_max"] == 1.0
    assert any(row["without_score"] > 0 for row in rows)
    assert all(row["without_score"] == 2 * row["dropped_missing_score"] for row in rows)
    # The multiplier follows the cost of the step before.
    for before, after in pairwise(rows):
        moved = after["lagrange_words"] - before["lagrange_words"]
        assert moved == pytest.approx(0.05 * (before["cost_words"] - 3.0), abs=1e-6) or after["lagrange_words"] == 0.0
