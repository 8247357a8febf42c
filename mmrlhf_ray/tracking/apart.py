"""A tracker in a process of its own: whatever happens to it, the run goes on.

Such trackers wait for servers, take over the terminal and end with the interpreter when they please; apart, they have a
deadline, and a run never waits for them but at its end.
"""

import contextlib
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from queue import Empty, Full, Queue
from typing import IO, Any

from mmrlhf_ray.sandbox.child import environment, kill_group
from mmrlhf_ray.tracking.tracker import Sample, TrackedRun

logger = logging.getLogger(__name__)
LOG_DIR = "tracking"
"""In the run's directory: what each tracker printed."""
_START_S = 120.0
"""Until a tracker is ready, its imports and its server's answer included."""
_CLOSE_S = 60.0
"""From the end of the run until all is written or sent."""
_WAITING = 1000
"""Calls that may wait for a tracker."""
_SHOWN = 300


class Apart:
    """As Tracker. No method waits or raises, except close(), which waits `close_s` seconds at most."""

    def __init__(self, name: str, run: TrackedRun, start_s: float = _START_S, close_s: float = _CLOSE_S) -> None:
        self._name, self._start_s, self._close_s = name, start_s, close_s
        self._log = run.directory / LOG_DIR / f"{name}.log"
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "mmrlhf_ray.tracking.child", name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment(),
                start_new_session=True,  # Ctrl-C is for the run, which then closes it
            )
        self._began, self._ready = time.monotonic(), False
        self._lock, self._gone, self._ended = threading.Lock(), False, False
        self._calls: Queue[Any] = Queue(_WAITING)
        self._calls.put(run)
        threading.Thread(target=self._write, daemon=True).start()
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()

    @property
    def place(self) -> str:
        """The file with what it printed."""
        return str(self._log)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._call(("log", step, dict(metrics)))

    def show(self, step: int, samples: Sequence[Sample]) -> None:
        self._call(("show", step, tuple(samples)))

    def close(self) -> None:
        """Wait until all is written or sent; after the deadline the rest is given up."""
        starting = 0.0 if self._ready else max(0.0, self._began + self._start_s - time.monotonic())
        until = time.monotonic() + starting + self._close_s
        if not self._gone:
            with contextlib.suppress(Full):
                self._calls.put(None, timeout=self._close_s)
        self._reading.join(max(0.0, until - time.monotonic()))
        if self._reading.is_alive():
            self._give_up(f"it did not finish within {self._close_s:g} s of the run's end")
            self._reading.join()

    def _call(self, call: tuple[str, int, Any]) -> None:
        if self._gone:
            return
        if not self._ready and time.monotonic() - self._began > self._start_s:
            self._give_up(f"it did not start within {self._start_s:g} s")
            return
        try:
            self._calls.put_nowait(call)
        except Full:
            self._give_up(f"{_WAITING} calls wait for it")

    def _write(self) -> None:
        """A thread: hand over the calls, in their order."""
        pipe = _there(self._process.stdin)
        try:
            while (call := self._next()) is not None:
                pickle.dump(call, pipe)
                pipe.flush()
            pipe.close()
        except (OSError, ValueError):  # it is gone, which _read() says
            return

    def _next(self) -> Any:
        while not self._gone:
            try:
                return self._calls.get(timeout=1.0)
            except Empty:
                continue
        return None

    def _read(self) -> None:
        """A thread: say where the run can be looked at, and, when the tracker ends, what it failed of."""
        lines = _there(self._process.stdout)
        if first := lines.readline().decode(errors="replace").strip():
            self._ready = True
            logger.warning("%s: %s", self._name, first)
        lines.read()  # to its end
        os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)  # which comes a little later
        with self._lock:
            self._ended = True
            failed = kill_group(self._process) != 0
        if failed:
            self._give_up(_last_line(self._log))

    def _give_up(self, why: str) -> None:
        """Say so, once, and end it."""
        with self._lock:
            said, self._gone = self._gone, True
            if not self._ended:
                os.killpg(self._process.pid, signal.SIGKILL)
        if not said:
            logger.warning("%s is not used any more: %s; the run goes on (%s)", self._name, why, self._log)


def _there(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    last = lines[-1] if lines else "no reason given"
    return last if len(last) <= _SHOWN else f"{last[:_SHOWN]} …"
