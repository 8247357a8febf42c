"""A tracker in a process of its own never holds a run up."""

import sys
import time

import pytest

from mmrlhf_ray.errors import MissingExtra
from mmrlhf_ray.tracking import trackers
from mmrlhf_ray.tracking.apart import Apart
from mmrlhf_ray.tracking.tracker import TrackedRun
from tests.unit.tracking.runs import config

HANGS = "import time; time.sleep(600)"
FAILS = "import sys; sys.exit('the server says no')"
READS = "import sys; print('here', flush=True); sys.stdin.buffer.read(10); time = __import__('time'); time.sleep(600)"


@pytest.fixture
def started(tmp_path, monkeypatch):
    """Start a tracker whose process runs the given code."""
    own = []

    def start(code, start_s=60.0, close_s=60.0):
        file = tmp_path / "program"
        file.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{code}"\n')
        file.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(file))
        own.append(Apart("wandb", TrackedRun(tmp_path, "sft", {}, "an-id"), start_s, close_s))
        monkeypatch.undo()
        return own[-1]

    yield start
    for tracker in own:
        tracker.close()


def test_one_that_ends_is_told_once_with_its_last_line(started, caplog):
    tracker = started(FAILS)
    until = time.monotonic() + 60
    while not caplog.messages and time.monotonic() < until:
        tracker.log(0, {"reward/score": 1.0})
        time.sleep(0.02)
    for step in range(1, 50):
        tracker.log(step, {"reward/score": 1.0})
    tracker.close()
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("wandb is not used any more: the server says no; the run goes on (")


def test_one_that_does_not_start_is_given_up(started, caplog):
    tracker = started(HANGS, start_s=0.0)
    tracker.log(0, {"reward/score": 1.0})
    tracker.log(1, {"reward/score": 1.0})
    assert [message.split(";")[0] for message in caplog.messages] == [
        "wandb is not used any more: it did not start within 0 s"
    ]


def test_one_that_does_not_finish_is_ended(started, caplog):
    tracker = started(READS, close_s=1.0)
    until = time.monotonic() + 60
    while not caplog.messages and time.monotonic() < until:  # else it is given the time to start as well
        time.sleep(0.02)
    tracker.log(0, {"reward/score": 1.0})
    tracker.close()
    assert "it did not finish within 1 s of the run's end" in caplog.messages[-1]
    assert tracker._process.returncode == -9


def test_one_that_reads_nothing_is_given_up_where_too_much_waits(started, caplog):
    tracker = started(HANGS)
    for step in range(3000):
        tracker.log(step, {f"reward/{n}": 1.0 for n in range(50)})
    assert [message.split(";")[0] for message in caplog.messages] == [
        "wandb is not used any more: 1000 calls wait for it"
    ]


def test_one_that_is_not_installed_is_refused_with_its_extra(tmp_path, monkeypatch):
    monkeypatch.setattr("mmrlhf_ray.errors.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"the extra `mlflow`, .* pip install \"mmrlhf-ray\[mlflow\]\""):
        trackers.check_trackers(config(tmp_path, "tensorboard", "mlflow"))
    trackers.check_trackers(config(tmp_path, "tensorboard"))
