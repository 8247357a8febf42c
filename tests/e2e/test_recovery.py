"""Roles are killed and stopped in the middle of PPO: the run goes on by itself, and learns the same."""

import os
import signal
import time
from pathlib import Path

import pytest

from mmrlhf_ray.runtime.metrics import read_metrics
from tests.e2e.conftest import STEPS, Submitted, learnt
from tests.e2e.support import Running, start

PATIENCE_S = 600.0

pytestmark = pytest.mark.e2e


def wait_for(running: Running, run_dir: Path, step: int) -> None:
    until = time.monotonic() + PATIENCE_S
    while not any(row["step"] == step for row in read_metrics(run_dir)):
        assert running.process.poll() is None, running.process.communicate()
        assert time.monotonic() < until
        time.sleep(0.02)


def send(running: Running, role: str, number: int) -> None:
    """A signal to the first process of an actor's class."""
    pid = min(pid for pid, command in running.processes().items() if command.startswith(f"ray::{role}"))
    os.kill(pid, number)


def test_a_run_goes_on_as_if_nobody_had_died(submitted: Submitted, ppo_job: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    running = start("ppo", str(ppo_job), f"output_dir={tmp_path}", "recovery.silent_s=10", cwd=tmp_path)
    wait_for(running, run_dir, 0)
    send(running, "Generator", signal.SIGKILL)
    send(running, "PromptEncoder", signal.SIGKILL)
    wait_for(running, run_dir, 1)
    send(running, "Scorer", signal.SIGSTOP)
    send(running, "Reference", signal.SIGKILL)
    wait_for(running, run_dir, 2)
    send(running, "Learner", signal.SIGKILL)
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
