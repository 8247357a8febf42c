"""Checkpoints of an online run, written while the next step is being sampled."""

from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType

import ray

from mmrlhf_ray.config import PPOConfig
from mmrlhf_ray.pipelines.ppo.state import DriverState
from mmrlhf_ray.pipelines.resume import RunRecord
from mmrlhf_ray.runtime.waits import in_background
from mmrlhf_ray.training.checkpoint import Manifest, SaveClock, finishing, is_best, publish, stage
from mmrlhf_ray.workers.fleet import Fleet


class Saving:
    """Makes checkpoints, one at a time; `with` ends when the last one is written.

    A learner does one thing after the other: what it is asked after start() waits until it has saved, so the weights
    that are written are those of the step.
    """

    def __init__(self, cfg: PPOConfig, fleet: Fleet, run_dir: Path, record: RunRecord):
        self._cfg, self._fleet, self._run_dir, self._record = cfg, fleet, run_dir, record
        self._clock = SaveClock(cfg.checkpoint)
        self._writing: Future[Path] | None = None

    def due(self, done: int) -> bool:
        """Whether a checkpoint is made after `done` steps."""
        return done % self._cfg.checkpoint.every_steps == 0 or self._clock.late or done == self._cfg.steps

    def best(self, metrics: Mapping[str, float]) -> bool:
        """Whether a step with these metrics is the best so far, and has a checkpoint therefore."""
        return is_best(self._run_dir, self._cfg.checkpoint.quality(metrics))

    def start(self, done: int, state: DriverState, metrics: Mapping[str, float]) -> None:
        """Have all learners write what they are after `done` steps; nothing waits but for a checkpoint before it."""
        self.settle()
        self._fleet.begin("learn")  # who has left its device cannot be saved
        path = stage(self._run_dir, done)
        refs = {role: group.start_save(path / role) for role, group in self._fleet.learners.items()}
        manifest = Manifest(
            step=done,
            policy_version=done,
            seed=self._cfg.seed,
            ranks={role: len(group.group) for role, group in self._fleet.learners.items()},
            run=self._record.to_dict(),
            finished=done == self._cfg.steps,
            quality=self._cfg.checkpoint.quality(metrics),
            driver=state.to_dict(),
        )
        self._writing = in_background(lambda: self._published(path, refs, manifest))
        self._clock.restart()

    def settle(self) -> None:
        """Wait until the checkpoint that is being written is published, if there is one. Raises what it failed of:
        RunFailed on a full disk, and what a learner raised."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def _published(
        self, path: Path, refs: dict[str, list["ray.ObjectRef[dict[str, str]]"]], manifest: Manifest
    ) -> Path:
        with finishing(path):
            files = {
                f"{role}/{name}": digest
                for role, group in self._fleet.learners.items()
                for name, digest in group.finish_save(refs[role]).items()
            }
            return publish(path, manifest.model_copy(update={"files": files}), self._cfg.checkpoint.keep)

    def __enter__(self) -> "Saving":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Whatever the block failed of, a checkpoint that was begun is a good one; who ends the run by a signal does
        not wait for it."""
        if error is None:
            self.settle()
        elif isinstance(error, Exception) and self._writing is not None:
            self._writing.exception()
