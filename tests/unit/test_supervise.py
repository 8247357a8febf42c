"""A run is started again when it fails, and not for ever."""

import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from mmrlhf_ray.cli.supervise import supervise
from mmrlhf_ray.pipelines.run_dir import TRACE_FILE

PREAMBLE = f"""
import os, signal, sys
from pathlib import Path

run_dir = Path(sys.argv[1])
attempts = run_dir / "attempts"
with attempts.open("a") as file:
    file.write(" ".join(sys.argv[2:]) + "\\n")
number = len(attempts.read_text().splitlines())

def checkpoint(step):
    (run_dir / "checkpoints" / f"step-{{step:08d}}").mkdir(parents=True)

def fail(error, status=1):
    (run_dir / "{TRACE_FILE}").write_text("Traceback\\n" + error)
    sys.exit(status)
"""


@pytest.fixture
def waited() -> list[float]:
    return []


def run(tmp_path: Path, program: str, restarts: int, waited: list[float]) -> tuple[int, list[str]]:
    """Exit status, and the options of each attempt."""
    command = [sys.executable, "-c", PREAMBLE + textwrap.dedent(program), str(tmp_path)]
    status = supervise(command, tmp_path, restarts, waited.append)
    return status, (tmp_path / "attempts").read_text().splitlines()


def test_it_resumes_until_the_run_is_done(
    tmp_path: Path, waited: list[float], capfd: pytest.CaptureFixture[str]
) -> None:
    program = """
    if number < 4:
        checkpoint(number)
        fail("RunFailed: policy-0 died")
    """
    assert run(tmp_path, program, 5, waited) == (0, ["", "--resume", "--resume", "--resume"])
    assert waited == [5.0, 5.0, 5.0]
    assert "failed with status 1; starting again in 5 s, 5 restarts left" in capfd.readouterr().err


def test_the_same_error_twice_in_one_place_is_enough(
    tmp_path: Path, waited: list[float], capfd: pytest.CaptureFixture[str]
) -> None:
    program = """
    if number == 1:
        checkpoint(2)
    fail("RunFailed: loss is not finite")
    """
    assert run(tmp_path, program, 9, waited) == (1, ["", "--resume"])
    assert "the same error twice with no checkpoint in between, RunFailed: loss is not finite" in capfd.readouterr().err


def test_kills_without_progress_wait_longer_and_use_restarts_up(
    tmp_path: Path, waited: list[float], capfd: pytest.CaptureFixture[str]
) -> None:
    status, attempts = run(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)", 3, waited)
    assert (status, len(attempts)) == (-signal.SIGKILL, 4)
    assert waited == [10.0, 20.0, 40.0]
    assert "3 restarts are used up" in capfd.readouterr().err


def test_mistakes_of_the_users_are_not_repeated(tmp_path: Path, waited: list[float]) -> None:
    assert run(tmp_path, "sys.exit(2)", 9, waited) == (2, [""])
    assert waited == []


def test_a_signal_reaches_the_run_and_ends_both(tmp_path: Path) -> None:
    program = PREAMBLE + textwrap.dedent(
        """
        import time
        signal.signal(signal.SIGTERM, lambda *_: fail("told to end", 143))
        (run_dir / "ready").touch()
        time.sleep(60)
        """
    )
    supervisor = (
        "import sys; from pathlib import Path; from mmrlhf_ray.cli.supervise import supervise; "
        "sys.exit(supervise([sys.executable, '-c', sys.argv[1], sys.argv[2]], Path(sys.argv[2]), 9))"
    )
    process = subprocess.Popen([sys.executable, "-c", supervisor, program, str(tmp_path)])
    until = time.monotonic() + 30
    while not (tmp_path / "ready").exists():
        assert time.monotonic() < until
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 143
    assert len((tmp_path / "attempts").read_text().splitlines()) == 1
