import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from mmrlhf_ray.runtime import processes


@pytest.fixture
def mark() -> Iterator[str]:
    mark = f"test-{os.getpid()}-{time.monotonic_ns()}"
    yield mark
    processes.end_marked(mark, 0)


def _sleeper(mark: str) -> "subprocess.Popen[bytes]":
    """A process that sleeps, once the kernel shows its mark: just after exec its environment is empty."""
    sleeper = subprocess.Popen(["sleep", "1000"], env={**os.environ, processes.MARK: mark}, start_new_session=True)
    until = time.monotonic() + 60
    while sleeper.pid not in processes.marked(mark) and time.monotonic() < until:
        time.sleep(0.01)
    return sleeper


def test_marked_finds_descendants_and_no_others(mark: str) -> None:
    ours, other = _sleeper(mark), _sleeper(mark + "0")
    try:
        assert processes.marked(mark) == [ours.pid]
    finally:
        other.kill()
        other.wait()


def test_end_marked_kills_what_does_not_end(mark: str) -> None:
    sleeper = _sleeper(mark)
    assert processes.end_marked(mark, 0) == [sleeper.pid]
    assert sleeper.wait(timeout=60) == -9
    assert processes.end_marked(mark, 0) == []


def test_the_watchdog_acts_when_its_driver_is_killed_and_not_before(mark: str) -> None:
    code = (
        "import os, subprocess, sys, time\n"
        "from mmrlhf_ray.runtime import processes\n"
        f"dog = processes.start_watchdog({mark!r}, 0)\n"
        f"env = dict(os.environ) | {{processes.MARK: {mark!r}}}\n"
        "subprocess.Popen(['sleep', '1000'], env=env, start_new_session=True)\n"
        "time.sleep(1); print(dog.pid, flush=True); time.sleep(1000)"
    )
    driver = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    dog = int(driver.stdout.readline())
    assert len(processes.marked(mark)) == 1
    driver.kill()
    driver.wait()
    until = time.monotonic() + 60
    while (processes.marked(mark) or os.path.exists(f"/proc/{dog}")) and time.monotonic() < until:
        time.sleep(0.1)
    assert processes.marked(mark) == []
    assert not os.path.exists(f"/proc/{dog}")
