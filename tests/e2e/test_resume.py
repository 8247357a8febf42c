"""The driver is killed in the middle of PPO; the run goes on from its last checkpoint as if nothing had happened."""

import shutil
import time
from pathlib import Path

import pytest

from mmrlhf_ray.runtime.metrics import read_metrics
from tests.e2e.conftest import STEPS, Submitted, learnt
from tests.e2e.support import mmrlhf, start

KILL_AFTER_STEP = 2
CHECKPOINT_STEP = 2  # the last one before that, as one is made every two steps

pytestmark = pytest.mark.e2e


def test_a_killed_run_resumes_where_its_checkpoint_is(submitted: Submitted, ppo_job: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    arguments = ["ppo", str(ppo_job), f"output_dir={tmp_path}"]
    killed = start(*arguments, cwd=tmp_path)
    until = time.monotonic() + 900
    while not any(row["step"] == KILL_AFTER_STEP for row in read_metrics(run_dir)):
        assert killed.process.poll() is None, killed.process.communicate()
        assert time.monotonic() < until
        time.sleep(0.02)
    at_work = killed.processes()
    assert sum("ray::" in command for command in at_work.values()) >= 8, at_work
    ray_directory = killed.ray_directory()
    killed.process.kill()
    killed.process.communicate()
    killed.assert_nothing_left()
    shutil.rmtree(ray_directory)
    before = read_metrics(run_dir)
    assert not (run_dir / "model").exists()

    resumed = mmrlhf(*arguments, "--resume", cwd=tmp_path, timeout_s=900)
    assert resumed.returncode == 0, resumed.err
    after = read_metrics(run_dir)
    assert [row["step"] for row in after] == list(range(STEPS))
    assert after[:CHECKPOINT_STEP] == before[:CHECKPOINT_STEP]
    assert after[CHECKPOINT_STEP]["time"] > before[-1]["time"]  # this one was made again
    assert (run_dir / "model" / "config.json").is_file()
    for row, uninterrupted in zip(after, read_metrics(submitted.run_dir), strict=True):
        assert learnt(row) == learnt(uninterrupted), row["step"]
