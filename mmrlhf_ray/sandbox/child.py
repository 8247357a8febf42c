"""A process of ours that answers JSON lines, waited for with a deadline and never left behind."""

import contextlib
import json
import os
import secrets
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_CHUNK = 1 << 16
MARK = "MMRLHF_CHILD"
"""Environment variable by which whatever a child starts is found, in a session of its own or not."""
_SECRETS = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "MMRLHF_FEEDBACK_TOKEN")
"""Variables that are no business of the user's function."""
_SHOWN_BYTES = 100
_PACKAGE_ROOT = str(Path(__file__).parents[2])


def environment() -> dict[str, str]:
    """Our own, in which a child of ours finds this package wherever it lies."""
    paths = [_PACKAGE_ROOT, *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)}


class ChildFailed(Exception):
    """Why there is no answer. The child is no longer usable: end() it."""


def kill_group(leader: "subprocess.Popen[bytes]") -> int:
    """Kill a process and all that is in its group, close its pipes; its exit status, −n where signal n ended it."""
    # Before wait(): until then the number cannot belong to another process.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader.pid, signal.SIGKILL)
    code = leader.wait()
    for pipe in (leader.stdin, leader.stdout):
        assert pipe is not None
        with contextlib.suppress(BrokenPipeError):  # what was written and never read; it is closed all the same
            pipe.close()
    return code


def _kill_marked(mark: str) -> None:
    """Kill what left the group of a child; its environment still has the mark."""
    wanted = f"{MARK}={mark}".encode()
    for entry in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # ended meanwhile, or another user's
            if wanted in entry.read_bytes().split(b"\0"):
                os.kill(int(entry.parent.name), signal.SIGKILL)


class Child:
    """Runs the module with this Python in its own process group. What it prints goes to our standard error.

    The program is given the number of a pipe's reading end, which comes to its end when our process is gone; see
    `inside.guard`. Raises ChildFailed when the system has no process left.
    """

    def __init__(self, module: str):
        life, self._life = os.pipe()
        self._mark = secrets.token_hex(16)
        known = {name: value for name, value in environment().items() if name not in _SECRETS}
        try:
            self._popen = subprocess.Popen(
                [sys.executable, "-P", "-u", "-m", module, str(life)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=[life],
                start_new_session=True,
                env=known | {MARK: self._mark},
            )
        except OSError as error:
            os.close(self._life)
            raise ChildFailed(f"its process could not be started: {error}") from error
        finally:
            os.close(life)
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        self._in, self._out = self._popen.stdin.fileno(), self._popen.stdout.fileno()
        os.set_blocking(self._in, False)
        self._unsent = b""

    def send(self, request: Mapping[str, Any]) -> None:
        """Send a line, as much of it as the pipe takes now; receive() sends the rest."""
        self._unsent += json.dumps(request).encode() + b"\n"
        self._write()

    def receive(self, until: float) -> dict[str, Any]:
        """The answer, one line for what was sent last. Raises ChildFailed when it is not there at `until` (monotonic),
        or the child has ended."""
        received = bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(self._out, selectors.EVENT_READ)
            if self._unsent:
                selector.register(self._in, selectors.EVENT_WRITE)
            while not received.endswith(b"\n"):
                ready = selector.select(max(0.0, until - time.monotonic()))
                if not ready:
                    raise ChildFailed("did not answer by its deadline and was killed")
                for key, _ in ready:
                    if key.fd == self._out:
                        received += self._read()
                        continue
                    self._write()
                    if not self._unsent:
                        selector.unregister(self._in)
        try:
            answer = json.loads(received)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise ChildFailed(f"wrote something else between its answers: {bytes(received[:_SHOWN_BYTES])!r}")
        return answer

    def end(self) -> int:
        """Kill the child and all that it started; returns its exit status, −n where signal n ended it."""
        code = kill_group(self._popen)
        _kill_marked(self._mark)
        if self._life >= 0:
            os.close(self._life)
            self._life = -1
        return code

    def interrupt(self) -> None:
        """Kill the child while another thread waits in receive(), which then raises ChildFailed. end() it there."""
        if self._popen.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._popen.pid, signal.SIGKILL)

    def _write(self) -> None:
        try:
            self._unsent = self._unsent[os.write(self._in, self._unsent) :]
        except BlockingIOError:
            return
        except BrokenPipeError:
            self._unsent = b""  # it has ended: the next read says so

    def _read(self) -> bytes:
        part = os.read(self._out, _CHUNK)
        if part:
            return part
        code = self.end()
        if code >= 0:
            raise ChildFailed(f"ended its process with status {code}")
        raise ChildFailed(f"its process was ended by {signal.Signals(-code).name}")
