"""Progress of long work: a live line on a terminal, plain lines now and then elsewhere."""

import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as LiveBar
from rich.table import Column

PLAIN_SECONDS = 5.0
_WINDOW = 20  # updates over which the rate is taken
_BARS = {80: 8, 120: 14}  # columns that a console has fewer than → width of the bar


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
        self._restart_clock()
        if self._console.is_terminal:
            columns = (TextColumn("{task.description}", markup=False), BarColumn(self._bar), _text_column())
            self._live = LiveBar(*columns, console=self._console, transient=True)
            self._live.start()
            self._task = self._live.add_task(self._stage, total=self._total, completed=self._start, line=self._line())
        return self

    def _restart_clock(self) -> None:
        self._began = self._printed = self._clock()
        self._window: deque[tuple[float, int, int]] = deque([(self._began, self._done, self._samples)], maxlen=_WINDOW)

    def ready(self, who: str) -> None:
        """Say that `who` can begin. Rates and the time left do not count what came before."""
        self.note(f"{who} ready after {duration(self._clock() - self._began)}")
        self._restart_clock()

    def update(self, done_steps: int, samples: int, **shown: float) -> None:
        """`done_steps` units are done in all; `samples` were handled since the last call; `shown`: name → value."""
        now = self._clock()
        self._done = done_steps
        self._samples += samples
        self._shown = shown
        if len(self._window) == 2 and self._window[0][1] == self._start:
            self._window.popleft()  # until its first update a stage starts up
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
        self._say(self._fitted([self._stage, end, *self._values()], keep=2))

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    @property
    def _bar(self) -> int:
        """Width of the bar."""
        return next((bar for columns, bar in _BARS.items() if self._console.width < columns), 20)

    def _line(self) -> str:
        """What stands behind the bar: first what matters most, then as many values as fit."""
        parts = [f"{self._unit} {self._done}/{self._total}"]
        (then, done_then, samples_then), (now, done, samples) = self._window[0], self._window[-1]
        if now > then and done > done_then:
            left = (self._total - done) * (now - then) / (done - done_then)
            parts += [f"{duration(left)} left", f"{(samples - samples_then) / (now - then):,.1f} samples/s"]
        before = len(self._stage) + self._bar + 2 if self._console.is_terminal else 0
        return self._fitted([*parts, *self._values()], keep=1, before=before)

    def _fitted(self, parts: list[str], keep: int, before: int = 0) -> str:
        """The parts, on a terminal as many as its width has room for behind `before` characters, `keep` at least."""
        line = "  ".join(parts[:keep])
        for part in parts[keep:]:
            if self._console.is_terminal and before + len(line) + 2 + len(part) > self._console.width:
                break
            line += f"  {part}"
        return line

    def _values(self) -> list[str]:
        return [f"{name} {value:.4g}" for name, value in self._shown.items()]


def _text_column() -> TextColumn:
    return TextColumn("{task.fields[line]}", markup=False, table_column=Column(no_wrap=True))


def duration(seconds: float) -> str:
    """`seconds` as people say it: 8 s, 3 min 20 s, 2 h 05 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
