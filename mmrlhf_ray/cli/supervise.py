"""`--supervise N`: the run in a process of its own, started again from its newest checkpoint when it fails."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mmrlhf_ray.errors import UserError
from mmrlhf_ray.pipelines.run_dir import TRACE_FILE
from mmrlhf_ray.training.checkpoint import newest_step

_FIRST_WAIT_S = 5.0
_LONGEST_WAIT_S = 300.0
_HANDED_ON = (signal.SIGINT, signal.SIGTERM)

Place = tuple[int | None, str]
"""How far a run came, and what ended it there."""


def supervise(command: Sequence[str], run_dir: Path, restarts: int, sleep: Callable[[float], None] = time.sleep) -> int:
    """Run the command and, when it fails, again with --resume, at most `restarts` times. Returns the exit status of
    the last attempt.

    Not again after a mistake of the user's (status 2), after a signal that was meant for the run, and where the same
    error ended it twice with no checkpoint in between. Attempts that bring no checkpoint wait longer and longer.
    """
    wait_s, last, words = _FIRST_WAIT_S, None, list(command)
    for left in range(restarts, -1, -1):
        before = newest_step(run_dir)
        status, told = _attempt(words)
        if status == 0 or told or status == UserError.exit_status:
            return status
        place = newest_step(run_dir), _what(run_dir, status)
        if status > 0 and place == last:
            _say(f"the same error twice with no checkpoint in between, {place[1]}; not started again")
            return status
        if not left:
            _say(f"{restarts} restarts are used up")
            return status
        wait_s = _FIRST_WAIT_S if place[0] != before else min(2 * wait_s, _LONGEST_WAIT_S)
        last = place
        _say(f"{_ended(status)}; starting again in {wait_s:g} s, {left} restarts left")
        sleep(wait_s)
        words = [*command, *(["--resume"] if "--resume" not in command else [])]
    raise AssertionError("the last attempt returns")


def _attempt(words: Sequence[str]) -> tuple[int, bool]:
    """Exit status of the command, and whether somebody told this process to end, who then ended the command."""
    with (
        subprocess.Popen(words) as process,
        _handing_on(process) as told,
    ):
        return process.wait(), bool(told)


@contextmanager
def _handing_on(process: "subprocess.Popen[bytes]") -> Iterator[list[int]]:
    """Signals go to the process; yields those that came."""
    came: list[int] = []

    def hand_on(number: int, frame: object) -> None:
        came.append(number)
        process.send_signal(number)

    before = {number: signal.signal(number, hand_on) for number in _HANDED_ON}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _what(run_dir: Path, status: int) -> str:
    """The error that ended the run."""
    file = run_dir / TRACE_FILE
    lines = file.read_text(encoding="utf-8").strip().splitlines() if file.exists() else []
    return lines[-1] if lines else _ended(status)


def _ended(status: int) -> str:
    return f"ended by {signal.Signals(-status).name}" if status < 0 else f"failed with status {status}"


def _say(what: str) -> None:
    print(f"supervise: {what}", file=sys.stderr, flush=True)
