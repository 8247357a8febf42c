"""Rewards that fail and hang by chance, while the actor that asks them dies: no score is made up (`make chaos`)."""

import os
import signal
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from mmrlhf_ray.pipelines.ppo.job import ROLLOUTS_DIR
from mmrlhf_ray.runtime.metrics import read_metrics
from tests.chaos.test_matrix import Watched, job
from tests.e2e.support import start

STEPS, RESPONSES = 20, 24
FUNCTION = """
import random
import time

def score(data_source, solution_str, ground_truth, extra_info):
    chance = random.SystemRandom().random()
    if chance < 0.10:
        raise OSError("no answer")
    if chance < 0.15:
        time.sleep(3600)
    return float(len(solution_str))
"""

pytestmark = pytest.mark.chaos


def test_no_score_is_made_up(model_dir: Path, reward_model_dir: Path, data_dir: Path, tmp_path: Path) -> None:
    file = job(model_dir, reward_model_dir, data_dir, tmp_path)
    (tmp_path / "flaky.py").write_text(FUNCTION)
    values = yaml.safe_load(file.read_text())
    values["rewards"] = [
        {"name": "flaky", "kind": "function", "function": "flaky.py:score", "convention": "verl", "deadline_s": 1.0,
         "on_missing": "drop"}
    ]  # fmt: skip
    values["algorithm"] |= {"advantage_estimator": "grpo", "prompts_per_step": 12, "mini_batch_size": 24}
    values |= {"steps": STEPS, "rollouts_logged": 100, "stream": {"deterministic": False, "max_dropped": 100}}
    file.write_text(yaml.safe_dump(values))
    running = start("ppo", str(file), "name=flaky", cwd=tmp_path)
    watched = Watched(running, tmp_path / "flaky")
    watched.until(lambda: len(watched.steps) >= 3, "no step")
    victim = watched.pid("functions-0")
    assert victim is not None
    os.kill(victim, signal.SIGKILL)
    assert running.process.wait(1800) == 0, watched.last_words()
    running.assert_nothing_left()
    rows = read_metrics(tmp_path / "flaky")
    assert [row["step"] for row in rows] == list(range(STEPS))
    missing = sum(row["without_score"] for row in rows)
    print(f"{missing:g} responses without a score, {STEPS * RESPONSES} trained on")
    assert missing > 0.1 * STEPS * RESPONSES
    scored = pq.read_table(tmp_path / "flaky" / ROLLOUTS_DIR).to_pylist()
    assert len(scored) == STEPS * RESPONSES
    assert [row["score"] for row in scored] == [float(len(row["text"])) for row in scored]
