"""`mmrlhf export`: the model of any checkpoint as a Hugging Face directory, in this process, without actors."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from pydantic import ValidationError

from mmrlhf_ray.config import PPOConfig, PreferenceConfig, RewardModelConfig, RunConfig, SFTConfig
from mmrlhf_ray.config.load import JobKind
from mmrlhf_ray.errors import ConfigError, RunError
from mmrlhf_ray.pipelines.card import write_run_card
from mmrlhf_ray.pipelines.resume import RunRecord
from mmrlhf_ray.training.checkpoint import Complete, best_complete, complete_at, newest_complete
from mmrlhf_ray.training.objectives import PolicyObjective
from mmrlhf_ray.training.passes import Trainable
from mmrlhf_ray.training.preference_tasks import PreferenceTask
from mmrlhf_ray.training.reward_tasks import RewardModelTask
from mmrlhf_ray.training.tasks import SFTTask

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Exported:
    """What export() wrote, and of which checkpoint."""

    path: Path
    checkpoint: Path
    step: int


def export(source: Path, target: Path, best: bool = False) -> Exported:
    """Write the model that was trained to `target`, and its adapter, if that was trained, next to it as `adapter`.
    `source`: a checkpoint, or a run's directory, of which it takes the newest complete one, or with `best` that of the
    best quality (`checkpoint.best`).

    One rank on the CPU reads it, with parameters, gradients and optimizer in host memory. The directory of the model
    that the run started from must be there. Raises RunError for a checkpoint that is not there, damaged, or of a job
    that trains no model in this way, and ConfigError where `target` is there already.
    """
    if target.exists():
        raise ConfigError(f"{target}: expected a directory that is not there yet; remove it or choose another")
    one = source.name.startswith("step-")
    found = best_complete(source) if best else complete_at(source) if one else newest_complete(source)
    if found is None:
        raise RunError(f"{source}: expected a run's directory or one of its checkpoints, found no checkpoint")
    from mmrlhf_ray.training.build import build_trained  # DeepSpeed, which a mistake need not wait for

    cfg = _configuration(found)
    trainable, group = _trainable(cfg)
    use = cfg.trained["learner"]
    with _group_of_one():
        trained = build_trained(trainable, use.model, use.config, optimizer_steps=1, seed=cfg.seed, device=_CPU)
        trained.load(found.path / group)
        trained.export(target, trainable.layout if isinstance(trainable, RewardModelTask) else None)
    record = RunRecord(**found.manifest.run)
    write_run_card(target, found.path.parent.parent, record, found.manifest.step)
    return Exported(target, found.path, found.manifest.step)


def _configuration(checkpoint: Complete) -> RunConfig:
    """Of the run, as it was when the checkpoint was made."""
    run = checkpoint.manifest.run
    if not run:
        raise RunError(f"{checkpoint.path}: of an earlier version, which did not write down its settings")
    try:
        return JobKind(run["job"]).config.model_validate({**run["settings"], "name": "export"})
    except ValidationError as error:
        raise RunError(f"{checkpoint.path}: its settings are of another version: {error}") from error


def _trainable(cfg: RunConfig) -> tuple[Trainable, str]:
    """What was trained, and the checkpoint's directory of it."""
    match cfg:
        case PPOConfig():
            return PolicyObjective(cfg.algorithm, cfg.sampling.temperature), "policy"
        case SFTConfig():
            return SFTTask(cfg.feedback_coef), "workers"
        case PreferenceConfig():
            return PreferenceTask(cfg), "workers"
        case RewardModelConfig():
            return RewardModelTask(cfg), "workers"
    raise RunError("the job of this checkpoint exports no model; give one of sft, reward-model, preference or ppo")


@contextmanager
def _group_of_one() -> Iterator[None]:
    """This process as the only rank of a learner group."""
    from mmrlhf_ray.training.engine import init_process_group

    listener = socket.create_server(("127.0.0.1", 0))
    init_process_group(0, 1, "127.0.0.1", listener.getsockname()[1], _CPU, listener)
    try:
        yield
    finally:
        dist.destroy_process_group()
