"""All trackers of a run."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from mmrlhf_ray.config.base import RunConfig, TrackedConfig
from mmrlhf_ray.errors import needs
from mmrlhf_ray.runtime.metric_groups import grouped
from mmrlhf_ray.runtime.metrics import read_metrics
from mmrlhf_ray.tracking.tracker import Sample, TrackedRun, Tracker, run_id

_IN_PROCESS = "tensorboard"
"""Files alone; all others have a process of their own."""


class Trackers:
    """What `track` names, all given the same."""

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self._trackers = tuple(trackers)

    def __len__(self) -> int:
        return len(self._trackers)

    def log(self, step: int, metrics: Mapping[str, float | None]) -> None:
        """The metrics of one step, by their names in metrics.jsonl; what is not finite is left out. Raises RunFailed
        where TensorBoard finds a full disk, and nothing else."""
        values = _finite(metrics)
        for tracker in self._trackers:
            tracker.log(step, values)

    def show(self, step: int, samples: Sequence[Sample]) -> None:
        """Some responses of one step. Raises as log()."""
        for tracker in self._trackers:
            tracker.show(step, samples)


@contextmanager
def tracking(cfg: TrackedConfig, run_dir: Path, job: str, resume_step: int | None) -> Iterator[Trackers]:
    """The trackers of a run for the time of the block; at its end all is written. `job`, `resume_step`: as of
    MetricsWriter."""
    with ExitStack() as stack:
        if not cfg.track:
            yield Trackers(())
            return
        kept = [row for row in read_metrics(run_dir) if row["step"] < resume_step] if resume_step is not None else []
        run = TrackedRun(
            directory=run_dir.resolve(),
            job=job,
            config={key: value for key, value in cfg.model_dump(mode="json").items() if key != "env"},
            id=run_id(run_dir, resume_step is not None),
            resume_step=resume_step,
            earlier=[(row["step"], _finite(row)) for row in kept],
        )
        yield Trackers([stack.enter_context(closing(_opened(name, run))) for name in cfg.track])


def check_trackers(cfg: RunConfig) -> None:
    """Raise MissingExtra where a tracker that `track` names is not installed."""
    for name in cfg.track if isinstance(cfg, TrackedConfig) else ():
        if name != _IN_PROCESS:
            needs(name)


def _opened(name: str, run: TrackedRun) -> Tracker:
    if name == _IN_PROCESS:
        from mmrlhf_ray.tracking.tensorboard import TensorBoard

        return TensorBoard(run)
    from mmrlhf_ray.tracking.apart import Apart

    return Apart(name, run)


def _finite(metrics: Mapping[str, float | None]) -> dict[str, float]:
    values = {name: value for name, value in metrics.items() if name not in ("step", "time")}
    return {grouped(name): float(v) for name, v in values.items() if v is not None and math.isfinite(v)}
