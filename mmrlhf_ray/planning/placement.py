"""Does the placement make sense, and does a cluster hold it? Asked before any actor starts."""

from dataclasses import dataclass

from mmrlhf_ray.config import (
    EvaluateConfig,
    PPOConfig,
    ProbeRewardConfig,
    Resources,
    RolePlacement,
    RunConfig,
    TrainJobConfig,
)
from mmrlhf_ray.errors import ConfigError, PlacementError

_WITHOUT_MODEL = ("encoder", "functions")
_LEARNERS = {"policy": "learner", "critic": "critic"}
"""Learner role → its configuration section."""


@dataclass(frozen=True)
class Reservation:
    """What the actors of one role reserve; CPUs and GPUs are for each."""

    role: str
    key: str
    """Configuration section that says so."""
    replicas: int
    num_cpus: float
    num_gpus: float

    @property
    def total_cpus(self) -> float:
        return self.replicas * self.num_cpus

    @property
    def total_gpus(self) -> float:
        return self.replicas * self.num_gpus


def reservations(cfg: RunConfig) -> tuple[Reservation, ...]:
    """Every role of a job and what it reserves."""
    if isinstance(cfg, TrainJobConfig):
        return (_reservation("workers", "workers", cfg.workers),)
    if not isinstance(cfg, PPOConfig | ProbeRewardConfig | EvaluateConfig):
        raise TypeError(f"no roles are known for {type(cfg).__name__}")
    return tuple(_reservation(role, f"placement.{role}", getattr(cfg.placement, role)) for role in cfg.roles)


def _reservation(role: str, key: str, placed: Resources) -> Reservation:
    replicas = placed.replicas if isinstance(placed, RolePlacement) else 1
    return Reservation(role, key, replicas, placed.num_cpus, placed.num_gpus)


def check_fits(cfg: RunConfig, cluster_cpus: float, cluster_gpus: float) -> None:
    """Raise PlacementError, with need, have and the key to change, unless the cluster holds the job.

    A PPO job whose keys contradict each other raises ConfigError first, as no cluster could mend that.
    """
    if isinstance(cfg, PPOConfig):
        check_consistent(cfg)
    roles = reservations(cfg)
    problems = []
    for name, attribute, have in (("CPU", "num_cpus", cluster_cpus), ("GPU", "num_gpus", cluster_gpus)):
        shares = [(r, r.replicas * getattr(r, attribute)) for r in roles]
        need = sum(share for _, share in shares)
        if need <= have + 1e-6:
            continue
        parts = " + ".join(f"{r.role} {r.replicas} × {getattr(r, attribute):g}" for r, share in shares if share)
        largest = max(shares, key=lambda pair: pair[1])[0]
        lower = f"{largest.key}.{attribute}" + (f" or {largest.key}.replicas" if largest.replicas > 1 else "")
        problems.append(f"the job needs {need:g} {name}s ({parts}), the cluster has {have:g}; lower {lower}")
    if problems:
        raise PlacementError("; ".join(problems) + "; or use a larger cluster")


def check_consistent(cfg: PPOConfig) -> None:
    """Raise ConfigError with every contradiction between placement, device and batch keys."""
    problems = [*_device_problems(cfg), *_generator_problems(cfg), *_learner_problems(cfg), *_token_problems(cfg)]
    if problems:
        count = f"{len(problems)} contradiction{'s' if len(problems) > 1 else ''}"
        raise ConfigError("\n  ".join([f"{count} in the configuration:", *problems]))


def _device_problems(cfg: PPOConfig) -> list[str]:
    models = [r for r in reservations(cfg) if r.role not in _WITHOUT_MODEL]
    if cfg.device == "cpu":
        return [f"device=cpu, but {r.key}.num_gpus={r.num_gpus:g}; set it to 0" for r in models if r.num_gpus]
    if cfg.device == "cuda":
        return [f"device=cuda, but {r.key}.num_gpus=0; reserve a GPU" for r in models if not r.num_gpus]
    return []


def _generator_problems(cfg: PPOConfig) -> list[str]:
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


def _learner_problems(cfg: PPOConfig) -> list[str]:
    problems = []
    for role, section in _LEARNERS.items():
        if role not in cfg.roles:
            continue
        gpus = getattr(cfg.placement, role).num_gpus
        engine = getattr(cfg, section).engine
        if gpus > 1:
            problems.append(
                f"placement.{role}.num_gpus={gpus:g}: a learner rank drives one GPU; raise placement.{role}.replicas"
            )
        if engine.offload_optimizer and not gpus:
            problems.append(f"{section}.engine.offload_optimizer=true needs placement.{role}.num_gpus")
        if engine.offload_optimizer and engine.zero_stage == 0:
            problems.append(f"{section}.engine.offload_optimizer=true needs {section}.engine.zero_stage 1, 2 or 3")
    return problems


def _token_problems(cfg: PPOConfig) -> list[str]:
    longest = cfg.data.max_prompt_tokens + cfg.sampling.max_response_tokens
    budgets = {
        "learner.engine.micro_batch_tokens": cfg.learner.engine.micro_batch_tokens,
        **({"critic.engine.micro_batch_tokens": cfg.critic.engine.micro_batch_tokens} if "critic" in cfg.roles else {}),
        "score_micro_batch_tokens": cfg.score_micro_batch_tokens,
    }
    return [
        f"{key}={budget} is less than data.max_prompt_tokens + sampling.max_response_tokens = {longest}: "
        f"a response of full length would fit in no forward pass"
        for key, budget in budgets.items()
        if budget < longest
    ]
