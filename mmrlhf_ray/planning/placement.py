"""Does the placement make sense, and does a machine or cluster hold it? Asked before any actor starts."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from mmrlhf_ray.config import (
    BehaviourConfig,
    DiscreteConfig,
    EngineConfig,
    EvaluateConfig,
    PPOConfig,
    Resources,
    RunConfig,
)
from mmrlhf_ray.config.placement import Placement
from mmrlhf_ray.errors import ConfigError, PlacementError
from mmrlhf_ray.models import why_not

_WITHOUT_MODEL = ("encoder", "eval_encoder", "functions")
LEARNERS: Mapping[str, str] = {"policy": "learner", "critic": "critic"}
"""Learner role → the section of the configuration that says how it learns."""
_PLACEMENT = "placement."


@dataclass(frozen=True)
class Reservation:
    """Resources that the actors of one role reserve; CPUs and GPUs are for each."""

    role: str
    key: str
    """Configuration section that says so."""
    replicas: int
    num_cpus: float
    num_gpus: float
    shares: tuple[str, ...] = ()
    """Roles that take turns on these GPUs, this one among them."""

    @property
    def total_cpus(self) -> float:
        return self.replicas * self.num_cpus

    @property
    def total_gpus(self) -> float:
        return self.replicas * self.num_gpus / max(1, len(self.shares))


def reservations(cfg: RunConfig) -> tuple[Reservation, ...]:
    """Every role of a job and what it reserves."""
    prefix = _PLACEMENT if "placement" in type(cfg).model_fields else ""
    return tuple(
        Reservation(role, prefix + role, placed.actors, placed.num_cpus, placed.num_gpus, _shares(cfg, role))
        for role, placed in cfg.roles.items()
    )


def _shares(cfg: RunConfig, role: str) -> tuple[str, ...]:
    placement = getattr(cfg, "placement", None)
    return placement.sharing(role) if isinstance(placement, Placement) and role in placement.sharing_roles else ()


def check_fits(cfg: RunConfig, cpus: float, gpus: float, where: str = "the cluster") -> None:
    """Raise PlacementError, with have, need and what to change, unless `where`, with so much, holds the job."""
    roles = reservations(cfg)
    problems = []
    for name, attribute, have, total in (
        ("CPU", "num_cpus", cpus, attrgetter("total_cpus")),
        ("GPU", "num_gpus", gpus, attrgetter("total_gpus")),
    ):
        shares = [(r, total(r)) for r in roles]
        need = sum(share for _, share in shares)
        if need <= have + 1e-6:
            continue
        parts = " + ".join(f"{r.role} {r.replicas} × {share / r.replicas:g}" for r, share in shares if share)
        largest = max(shares, key=lambda pair: pair[1])[0]
        lower = f"{largest.key}.{attribute}" + (f" or {largest.key}.replicas" if largest.replicas > 1 else "")
        problems.append(f"{where} has {have:g} {name}s, the job needs {need:g}: {parts}; lower {lower}")
    if not problems:
        return
    message = "; ".join(problems) + "; or use a larger cluster"
    if sum(r.total_gpus for r in roles) <= gpus + 1e-6:
        message += f". This would fit:\n\n{fitting(cfg, cpus)}"
    raise PlacementError(message)


def fitting(cfg: RunConfig, cpus: float) -> str:
    """YAML of a job's roles with fewer CPUs for each actor, so that `cpus` hold them all. The actors then share cores,
    so it is slower, not smaller."""
    scale = min(1.0, cpus / sum(r.total_cpus for r in reservations(cfg)))
    own = {role: _keys(placed, math.floor(100 * scale * placed.num_cpus) / 100) for role, placed in cfg.roles.items()}
    if "placement" not in type(cfg).model_fields:
        return "\n".join(f"{role}: {keys}" for role, keys in own.items())
    return "\n".join(["placement:", *(f"  {role}: {keys}" for role, keys in own.items())])


def _keys(placed: Resources, num_cpus: float) -> str:
    return _flow(placed.model_dump(exclude_defaults=True) | {"num_cpus": num_cpus})


def _flow(keys: Mapping[str, Any]) -> str:
    """YAML on one line."""
    own = (f"{key}: {_flow(value) if isinstance(value, dict) else f'{value:g}'}" for key, value in keys.items())
    return "{" + ", ".join(own) + "}"


def this_machine(cfg: RunConfig) -> tuple[float, float]:
    """(CPUs, GPUs) of this machine; GPUs are only looked for where the job reserves some."""
    if not any(r.num_gpus for r in reservations(cfg)):
        return float(os.cpu_count() or 1), 0.0
    import torch

    return float(os.cpu_count() or 1), float(torch.cuda.device_count())


def check_consistent(cfg: RunConfig) -> None:
    """Raise ConfigError with every contradiction between placement, device and batch keys."""
    problems = [*_device_problems(cfg), *_learner_problems(cfg)]
    if isinstance(cfg, PPOConfig) and cfg.reference_engine == "zero3" and cfg.placement.reference.num_gpus > 1:
        given = f"placement.reference.num_gpus={cfg.placement.reference.num_gpus:g}"
        problems.append(
            f"{given}: with reference_engine=zero3 a rank drives one GPU; raise placement.reference.replicas"
        )
    if isinstance(cfg, PPOConfig | EvaluateConfig):
        problems += [*_generator_problems(cfg), *_token_problems(cfg)]
    if problems:
        count = f"{len(problems)} contradiction{'s' if len(problems) > 1 else ''}"
        raise ConfigError("\n  ".join([f"{count} in the configuration:", *problems]))


def _device_problems(cfg: RunConfig) -> list[str]:
    if isinstance(
        cfg, DiscreteConfig | BehaviourConfig
    ):  # its small networks may learn on another device than the actors' models
        return []
    models = [r for r in reservations(cfg) if r.role not in _WITHOUT_MODEL]
    if cfg.device == "cpu":
        return [f"device=cpu, but {r.key}.num_gpus={r.num_gpus:g}; set it to 0" for r in models if r.num_gpus]
    if cfg.device == "cuda":
        return [f"device=cuda, but {r.key}.num_gpus=0; reserve a GPU" for r in models if not r.num_gpus]
    return []


def _generator_problems(cfg: PPOConfig | EvaluateConfig) -> list[str]:
    gpus, size = cfg.placement.generator.num_gpus, cfg.generator.tensor_parallel_size
    problems = []
    if gpus > 1 and gpus != size:
        problems.append(f"placement.generator.num_gpus={gpus:g} must equal generator.tensor_parallel_size={size}")
    if gpus <= 1 and size > 1:
        problems.append(
            f"generator.tensor_parallel_size={size} needs placement.generator.num_gpus={size}, got {gpus:g}"
        )
    if 0 < gpus < 1 and cfg.generator.gpu_memory_utilization > gpus:
        problems.append(
            f"generator.gpu_memory_utilization={cfg.generator.gpu_memory_utilization} is more than the share of a "
            f"GPU that placement.generator.num_gpus={gpus:g} reserves"
        )
    return problems


def _learner_problems(cfg: RunConfig) -> list[str]:
    problems = []
    placed = {r.role: r for r in reservations(cfg)}
    roles = LEARNERS if isinstance(cfg, PPOConfig) else {"workers": "learner"}
    for role, section in roles.items():
        if section not in cfg.trained:
            continue
        gpus, key, engine = placed[role].num_gpus, placed[role].key, cfg.trained[section].config.engine
        if gpus > 1:
            problems.append(f"{key}.num_gpus={gpus:g}: a learner rank drives one GPU; raise {key}.replicas")
        if engine.offload_optimizer and engine.zero_stage == 0:
            problems.append(f"{section}.engine.offload_optimizer=true needs {section}.engine.zero_stage 1, 2 or 3")
        least = 2 if cfg.trained[section].model.compute_dtype == "bfloat16" else 1
        if placed[role].shares and engine.zero_stage < least:
            problems.append(
                f"{section}.engine.zero_stage={engine.zero_stage}: DeepSpeed cannot move such a learner off the device "
                f"that placement.colocate has it share; set it to {least} or more"
            )
        ranks, spread = placed[role].replicas, engine.sequence_parallel
        if ranks % spread:
            problems.append(f"{section}.engine.sequence_parallel={spread} must divide {key}.replicas={ranks}")
        reason = why_not(engine.attention, cfg.trained[section].model.compute_dtype, "cuda" if gpus else "cpu")
        if reason is not None:
            problems.append(f"{section}.engine.attention={engine.attention} {reason}; choose sdpa or auto")
    return problems


def _learner_budget(section: str, engine: EngineConfig) -> tuple[str, int]:
    """What says how many tokens a pass has, and the number."""
    key = f"{section}.engine.micro_batch_tokens"
    spread = engine.sequence_parallel
    return (key if spread == 1 else f"{key} × sequence_parallel"), engine.micro_batch_tokens * spread


def pass_budgets(cfg: PPOConfig | EvaluateConfig) -> dict[str, int]:
    """Key → most tokens that a forward pass of one of its roles may have."""
    budgets = dict(_learner_budget(section, use.config.engine) for section, use in cfg.trained.items())
    if {"scorer", "reference"} & set(cfg.roles):
        budgets["score_micro_batch_tokens"] = cfg.score_micro_batch_tokens
    return budgets


def _token_problems(cfg: PPOConfig | EvaluateConfig) -> list[str]:
    longest = cfg.data.most_prompt_tokens + cfg.sampling.max_response_tokens
    budgets = pass_budgets(cfg)
    return [
        f"{key}={budget} is less than data.max_prompt_tokens + sampling.max_response_tokens = {longest}: "
        f"a response of full length would fit in no forward pass"
        for key, budget in budgets.items()
        if budget < longest
    ]
