"""A line for each actor when it has started."""

import sys
import threading
import time
from collections.abc import Callable

import ray
from ray.exceptions import RayError

from mmrlhf_ray.runtime.progress import duration

_LOOK_S = 0.5


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class Readiness:
    """Says which actors have started, with the seconds that each took. A thread of its own looks, so that the order in
    which the driver waits for them does not matter."""

    def __init__(self, say: Callable[[str], None] = _to_stderr) -> None:
        self._say = say
        self._waiting: dict[ray.ObjectRef, tuple[str, float]] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._started = False
        self._thread = threading.Thread(target=self._look, daemon=True)

    def add(self, name: str, ready: "ray.ObjectRef") -> None:
        """An actor that was asked for now; `ready` is answered when it has started."""
        with self._lock:
            self._waiting[ready] = (name, time.monotonic())
            started, self._started = self._started, True
        if not started:
            self._thread.start()

    def close(self) -> None:
        """Say no more."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join()

    def _look(self) -> None:
        while not self._closed.is_set():
            with self._lock:
                waiting = dict(self._waiting)
            if not waiting:
                self._closed.wait(_LOOK_S)
                continue
            done, _ = ray.wait(list(waiting), num_returns=1, timeout=_LOOK_S)
            for ref in done:
                name, since = waiting[ref]
                with self._lock:
                    del self._waiting[ref]
                try:
                    ray.get(ref)
                except RayError:
                    continue  # whoever waits for the actor says what happened to it
                self._say(f"{name} ready after {duration(time.monotonic() - since)}")
