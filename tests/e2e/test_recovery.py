"""Roles are killed and stopped in the middle of PPO: the run goes on by itself, and learns the same."""

import signal
from pathlib import Path

import pytest

from mmrlhf_ray.runtime.metrics import read_metrics
from tests.e2e.conftest import STEPS, Submitted, learnt
from tests.e2e.support import start

PATIENCE_S = 600.0

pytestmark = pytest.mark.e2e


def test_a_run_goes_on_as_if_nobody_had_died(submitted: Submitted, ppo_job: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    running = start("ppo", str(ppo_job), f"output_dir={tmp_path}", "recovery.silent_s=10", cwd=tmp_path)

    def wait_for(step: int) -> None:
        running.wait_for(lambda: any(row["step"] == step for row in read_metrics(run_dir)), PATIENCE_S)

    wait_for(0)
    running.send(signal.SIGKILL, "ray::Generator")
    running.send(signal.SIGKILL, "ray::PromptEncoder")
    wait_for(1)
    running.send(signal.SIGSTOP, "ray::Scorer")
    running.send(signal.SIGKILL, "ray::Reference")
    wait_for(2)
    running.send(signal.SIGKILL, "ray::Learner")
    finished = running.finish(PATIENCE_S)
    assert finished.returncode == 0, finished.err
    for name in ("generator-0", "encoder-0", "scorer-0", "reference-0"):
        assert f"{name} is back after" in finished.err, finished.err
    assert "all learners start again" in finished.err
    rows = read_metrics(run_dir)
    assert [row["step"] for row in rows] == list(range(STEPS))
    for row, undisturbed in zip(rows, read_metrics(submitted.run_dir), strict=True):
        assert learnt(row) == learnt(undisturbed), row["step"]
    assert (run_dir / "model" / "config.json").is_file()
