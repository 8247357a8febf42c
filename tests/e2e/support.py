"""The `mmrlhf` command as a user runs it, and the proof that it leaves no process behind."""

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from tests.command import COMMAND, Finished

_MARK = "MMRLHF_TEST"
_PATIENCE_S = 180.0
_SOON_S = 30.0  # helpers of Python's own end when they notice that their parent has


@dataclass(frozen=True)
class Running:
    """A command at work; what it starts can be told by `mark`, whatever becomes of it."""

    process: "subprocess.Popen[str]"
    mark: str

    def processes(self) -> dict[int, str]:
        """Process id → command line of everything that the command started and that is alive, itself included."""
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                environment = (entry / "environ").read_bytes()
                command = (entry / "cmdline").read_bytes()
            except OSError:  # ended meanwhile, or another user's
                continue
            if f"{_MARK}={self.mark}".encode() in environment.split(b"\0"):
                found[int(entry.name)] = command.replace(b"\0", b" ").decode(errors="replace")
        return found

    def finish(self, timeout_s: float) -> Finished:
        """Wait for its end, by `timeout_s` at the latest; then nothing of it may be left."""
        try:
            out, err = self.process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            self.process.terminate()
            out, err = self.process.communicate(timeout=_PATIENCE_S)
            raise AssertionError(f"no end within {timeout_s} s\n{out}\n{err}") from None
        self.assert_nothing_left(_SOON_S)
        return Finished(self.process.returncode, out, err)

    def assert_nothing_left(self, patience_s: float = _PATIENCE_S) -> None:
        """No process of the command is alive, after at most `patience_s`."""
        until = time.monotonic() + patience_s
        while (left := self.processes()) and time.monotonic() < until:
            time.sleep(0.2)
        assert left == {}, f"left behind: {left}"

    def wait_for(self, done: Callable[[], bool], timeout_s: float) -> None:
        """Until `done()`, by `timeout_s` at the latest; the command must be at work meanwhile."""
        until = time.monotonic() + timeout_s
        while not done():
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < until
            time.sleep(0.02)

    def send(self, number: int, command: str) -> None:
        """A signal to the first process whose command line has `command`, such as `ray::Learner`."""
        os.kill(min(pid for pid, own in self.processes().items() if command in own), number)

    def ray_directory(self) -> Path:
        """Where the command's private Ray keeps its files."""
        found = {match for line in self.processes().values() for match in re.findall(r"/tmp/mmrlhf-\w+", line)}
        assert len(found) == 1, found
        return Path(found.pop())


def start(*arguments: str, cwd: Path, env: dict[str, str] | None = None) -> Running:
    """`mmrlhf <arguments>` in a directory."""
    return _start([COMMAND, *arguments], cwd, env or {})


def typed(line: str, cwd: Path, env: dict[str, str] | None = None) -> Running:
    """A line as one types it in a shell in which the environment is active."""
    path = f"{Path(COMMAND).parent}:{os.environ['PATH']}"
    return _start(["bash", "-c", line], cwd, {"PATH": path} | (env or {}))


def _start(words: Sequence[str], cwd: Path, env: Mapping[str, str]) -> Running:
    mark = uuid4().hex
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | {_MARK: mark} | dict(env)
    process = subprocess.Popen(
        words,
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A test run in the background of a shell ignores Ctrl-C, and its children would too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    return Running(process, mark)


def mmrlhf(*arguments: str, cwd: Path, timeout_s: float = 600.0) -> Finished:
    """Run the command to its end."""
    return start(*arguments, cwd=cwd).finish(timeout_s)


def refused(finished: Finished, *expected: str) -> None:
    """The command ended as a mistake of its user does, and said each of `expected`; nothing of Ray's or Python's."""
    shown = f"{finished.out}\n{finished.err}"
    assert finished.returncode == 2, shown
    assert finished.err.count("error: ") == 1, shown
    for words in expected:
        assert words in finished.err, f"{words!r} is missing in\n{shown}"
    for noise in ("Traceback", "ray::", "RayTaskError", "RayActorError", "site-packages", "(raylet)", "(pid="):
        assert noise not in shown, shown
    remove_kept_logs(finished)


def remove_kept_logs(finished: Finished) -> None:
    """After an error the logs of the private Ray are kept, and the message says where."""
    for directory in re.findall(r"logs of this run are kept in (/tmp/mmrlhf-\w+)", finished.err):
        shutil.rmtree(directory)


def overrides(**values: object) -> Sequence[str]:
    """`a__b=1` → `a.b=1`."""
    return [f"{key.replace('__', '.')}={value}" for key, value in values.items()]
