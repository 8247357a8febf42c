"""Progress of long work: a live line on a terminal, plain lines now and then elsewhere."""

import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as LiveBar

PLAIN_SECONDS = 5.0
_WINDOW = 20  # updates over which the rate is taken, so that a slow first step is soon forgotten


class Progress:
    """Context manager that shows how far a stage is.

    stage: what is being done, e.g. "PPO".
    total: how many units there are to do.
    unit: what is counted, in the singular, e.g. "step".
    start: units done before, where a run was resumed; they count as done but not for the rate.
    console, clock: for tests; default to standard error (results stay alone on standard output) and monotonic
        time in seconds.
    """

    def __init__(
        self,
        stage: str,
        total: int,
        unit: str,
        *,
        start: int = 0,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stage, self._total, self._unit = stage, total, unit
        self._console = console or Console(stderr=True, highlight=False)
        self._clock = clock
        self._start = self._done = start
        self._samples = 0
        self._shown: dict[str, float] = {}
        self._live: LiveBar | None = None
        self._task = TaskID(0)

    def __enter__(self) -> Self:
        self._began = self._printed = self._clock()
        self._window: deque[tuple[float, int, int]] = deque([(self._began, self._start, 0)], maxlen=_WINDOW)
        if self._console.is_terminal:
            columns = (TextColumn("{task.description}", markup=False), BarColumn(20), TextColumn("{task.fields[line]}"))
            self._live = LiveBar(*columns, console=self._console, transient=True)
            self._live.start()
            self._task = self._live.add_task(self._stage, total=self._total, completed=self._start, line=self._line())
        return self

    def update(self, done_steps: int, samples: int, **shown: float) -> None:
        """`done_steps` units are done in all; `samples` were handled since the last call; `shown`: name → value."""
        now = self._clock()
        self._done = done_steps
        self._samples += samples
        self._shown = shown
        self._window.append((now, done_steps, self._samples))
        if self._live is not None:
            self._live.update(self._task, completed=done_steps, line=self._line())
        elif now - self._printed >= PLAIN_SECONDS:
            self._printed = now
            self._say(f"{self._stage}  {self._line()}")

    def note(self, text: str) -> None:
        """A separate line, above the bar."""
        self._say(f"{self._stage}  {text}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
        seconds = self._clock() - self._began
        done = self._done - self._start
        rate = f" ({self._samples / seconds:,.1f} samples/s)" if self._samples and seconds > 0 else ""
        if kind is None:
            what = f"{done:,} {self._unit}{'' if done == 1 else 's'}"
            end = f"done, {what}, {self._samples:,} samples in {duration(seconds)}{rate}"
        else:
            end = f"stopped by {kind.__name__} after {self._unit} {self._done}/{self._total}, {duration(seconds)}"
        self._say(f"{self._stage}  {'  '.join([end, *self._values()])}")

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _line(self) -> str:
        parts = [f"{self._unit} {self._done}/{self._total}"]
        (then, done_then, samples_then), (now, done, samples) = self._window[0], self._window[-1]
        if now > then and done > done_then:
            parts.append(f"{(samples - samples_then) / (now - then):,.1f} samples/s")
        parts += self._values()
        if now > then and done > done_then:
            left = (self._total - done) * (now - then) / (done - done_then)
            parts.append(f"{duration(left)} left")
        return "  ".join(parts)

    def _values(self) -> list[str]:
        return [f"{name} {value:.4g}" for name, value in self._shown.items()]


def duration(seconds: float) -> str:
    """`seconds` as people say it: 8 s, 3 min 20 s, 2 h 05 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
