"""Metrics of a run: metrics.jsonl always, Ray's metrics endpoint where Ray is up. Trackers: see tracking/.

metrics.jsonl is the record: one strict-JSON line per logged step, on disk before log() returns.
"""

import json
import math
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import ray
from ray.util.metrics import Gauge

from mmrlhf_ray.disk import writing
from mmrlhf_ray.runtime.metric_rows import FILE_NAME, read_metrics

_RESERVED = ("step", "time")


class MetricsWriter:
    """Context manager that writes the metrics of one job.

    run_dir: the run's directory; created if missing. Its name becomes the tag `run` on Ray's endpoint.
    job: sft, reward_model, ppo, …; part of the gauge names `mmrlhf_<job>_<metric>`.
    resume_step: the first step that will be logged again. Lines of that step and later are dropped, and so is
        a half-written last line. None starts anew. Where no line would stay, an older metrics.jsonl is kept next to
        the new one, renamed by its date.
    """

    def __init__(self, run_dir: Path, job: str, resume_step: int | None = None) -> None:
        self._path = Path(run_dir) / FILE_NAME
        self._job = job
        self._resume_step = resume_step
        self._gauges: dict[str, Gauge] = {}
        self._last_step = -1

    def __enter__(self) -> Self:
        run_dir = self._path.parent
        run_dir.mkdir(parents=True, exist_ok=True)
        resumed = self._resume_step is not None
        kept = [row for row in read_metrics(run_dir) if row["step"] < (self._resume_step or 0)] if resumed else []
        if kept:
            _replace(self._path, kept)
            self._last_step = kept[-1]["step"]
        else:
            _set_aside(self._path)
        self._file = open(self._path, "a", encoding="ascii")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with writing(self._path):  # what could not be written is tried once more
            self._file.close()

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write the metrics of one step; they are on disk on return.

        Values that are not finite become null in the JSON and don't reach Ray's gauges. Raises ValueError for a step
        that is not later than the last one (all metrics of a step go in one call) and for metrics named `step` or
        `time`; RunFailed on a full disk.
        """
        if step <= self._last_step:
            raise ValueError(
                f"metrics: step {step} comes after step {self._last_step}; "
                "steps must grow, and all metrics of a step go in one log() call"
            )
        for name in _RESERVED:
            if name in metrics:
                raise ValueError(f"metrics: {name!r} is a column of {FILE_NAME} itself; rename the metric")
        values = {name: float(value) for name, value in metrics.items()}
        with writing(self._path):
            self._file.write(_line({"step": step, "time": round(time.time(), 3), **values}))
            self._file.flush()
            os.fsync(self._file.fileno())
        self._last_step = step
        if ray.is_initialized():
            self._set_gauges(values)

    def _set_gauges(self, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            if not math.isfinite(value):
                continue  # Ray's exporter drops these by itself; the gauge keeps its last finite value
            if name not in self._gauges:
                gauge_name = re.sub(r"[^A-Za-z0-9_]+", "_", f"mmrlhf_{self._job}_{name}")
                self._gauges[name] = Gauge(gauge_name, description=f"{self._job}: {name}", tag_keys=("run",))
            self._gauges[name].set(value, tags={"run": self._path.parent.name})


def _line(row: Mapping[str, float | None]) -> str:
    finite = {name: value if value is None or math.isfinite(value) else None for name, value in row.items()}
    return json.dumps(finite, allow_nan=False) + "\n"


def _set_aside(path: Path) -> None:
    if path.exists():
        date = time.strftime("%Y%m%dT%H%M%S", time.gmtime(path.stat().st_mtime))
        target, number = path.with_name(f"metrics-{date}.jsonl"), 1
        while target.exists():
            number += 1
            target = path.with_name(f"metrics-{date}-{number}.jsonl")
        path.rename(target)


def _replace(path: Path, rows: list[dict[str, Any]]) -> None:
    """Rewrite `path` so that a crash leaves either the old file or the new one."""
    partial = path.with_name(path.name + ".partial")
    with open(partial, "w", encoding="ascii") as file:
        file.writelines(_line(row) for row in rows)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
