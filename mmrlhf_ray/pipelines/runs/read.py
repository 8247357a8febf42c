"""Runs on this machine's disk: which there are, what they are at, and their figures. Reads only."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from mmrlhf_ray.errors import RunError
from mmrlhf_ray.pipelines.runs.figures import Figure, last_figures
from mmrlhf_ray.runtime.metric_rows import FILE_NAME, read_metrics

_CONFIG = "config.yaml"
_TRACE = "error.txt"
_LOCK = ".lock"
_RESULTS = ("evaluation.json", "probe.json", "discrete.json", "behaviour.json", "iterate.json", "reward_model.json")
_DONE = ("model", "adapter", *_RESULTS)
"""Of these a run that has ended well has left one."""
_IN_ROUNDS = frozenset({"iterate"})
"""Jobs that write results before they are done."""
_NOT_RUNS = frozenset(
    {"checkpoints", "model", "module", "adapter", "tensorboard", "rollouts", "media", "ray_train", "tune"}
)
_DEPTH = 3


@dataclass(frozen=True)
class Run:
    """One run's directory."""

    path: Path
    config: Mapping[str, Any]
    """As written when it began, every default spelled out."""

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def job(self) -> str:
        return str(self.config.get("job", "?"))

    @property
    def steps(self) -> int | None:
        """How many there will be, where the configuration says so."""
        steps = self.config.get("steps")
        return steps if isinstance(steps, int) else None

    @property
    def state(self) -> str:
        """running, finished, failed, or stopped: it ended before its time, and wrote no error."""
        began = (self.path / _CONFIG).stat().st_mtime
        done = any(_since(self.path / name, began) for name in _DONE)
        if _is_locked(self.path / _LOCK):
            return "finished" if done and self.job not in _IN_ROUNDS else "running"
        if _since(self.path / _TRACE, began):
            return "failed"
        return "finished" if done else "stopped"

    @property
    def age(self) -> float:
        """Seconds since it last wrote figures, or else began."""
        newest = max(_changed(self.path / name) for name in (_CONFIG, FILE_NAME, *_RESULTS))
        return max(0.0, time.time() - newest)

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """As read_metrics()."""
        return read_metrics(self.path)

    @cached_property
    def evaluation(self) -> Mapping[str, Any]:
        """evaluation.json of an evaluation; empty without one."""
        file = self.path / "evaluation.json"
        found: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        return found

    @property
    def done(self) -> int:
        """Steps that are logged: one more than the last one's number."""
        return self.metrics[-1]["step"] + 1 if self.metrics else 0

    @property
    def figures(self) -> list[Figure]:
        """The last figures, the main one first."""
        return last_figures(self.job, self.metrics, self.evaluation)


def open_run(path: Path) -> Run:
    """The run in a directory. Raises RunError where there is none."""
    try:
        text = (path / _CONFIG).read_text(encoding="utf-8")
    except OSError as error:
        raise RunError(
            f"{path}: no run, since there is no {_CONFIG} in it; `mmrlhf runs` lists those below a directory"
        ) from error
    try:
        config = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RunError(f"{path / _CONFIG}: not YAML: {str(error).splitlines()[0]}; the run cannot be shown") from error
    return Run(path, config if isinstance(config, Mapping) else {})


def find_runs(directory: Path) -> list[Run]:
    """The runs in a directory and up to two levels below, the one that wrote last first. Raises RunError where there is
    no directory."""
    if not directory.is_dir():
        raise RunError(f"{directory}: no such directory; give the one that runs are in, by default runs/")
    return sorted((_listed(path) for path in _runs_below(directory, _DEPTH)), key=lambda run: run.age)


def _listed(path: Path) -> Run:
    """A list goes on past what cannot be read."""
    try:
        return open_run(path)
    except RunError:
        return Run(path, {})


def _runs_below(directory: Path, depth: int) -> Iterator[Path]:
    if (directory / _CONFIG).is_file():
        yield directory
    if depth:
        for path in sorted(directory.iterdir()):
            if path.is_dir() and not path.is_symlink() and path.name not in _NOT_RUNS and path.name[0] != ".":
                yield from _runs_below(path, depth - 1)


def _changed(path: Path) -> float:
    return path.stat().st_mtime if path.exists() else 0.0


def _since(path: Path, began: float) -> bool:
    return path.exists() and path.stat().st_mtime >= began


def _is_locked(path: Path) -> bool:
    """Whether a process of this machine writes to the run, from the kernel's table: asking for the lock oneself would,
    for a moment, keep a run from starting."""
    try:
        file, table = path.stat(), Path("/proc/locks").read_text(encoding="ascii")
    except OSError:
        return False
    return any(line.split()[1] == "FLOCK" and line.split()[5].endswith(f":{file.st_ino}") for line in _lines(table))


def _lines(table: str) -> Sequence[str]:
    return [line for line in table.splitlines() if len(line.split()) > 5]
