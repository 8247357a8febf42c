"""`placement: auto`: a placement that fits the machine or cluster that a job is about to run on."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import psutil

from mmrlhf_ray.config import IterateConfig, PPOConfig, RunConfig
from mmrlhf_ray.config.placement import GeneratorPlacement, Placement, Replicas, Resources
from mmrlhf_ray.config.rounds import first_round
from mmrlhf_ray.errors import ConfigError
from mmrlhf_ray.planning.devices import H100, Device, Nodes, device_named
from mmrlhf_ray.planning.plan import facts_of
from mmrlhf_ray.planning.propose import propose
from mmrlhf_ray.planning.settle import placement_is_auto, with_dtypes
from mmrlhf_ray.planning.sizes import GIB
from mmrlhf_ray.runtime.session import ray_session, starts_cluster

C = TypeVar("C", bound=RunConfig)
_ACCELERATOR = "accelerator_type:"
"""Ray's prefix of a resource that names a node's GPUs."""
_ON_DEVICES = ("scorer", "reference")
"""Roles alongside the generator, of jobs that learn nothing, that have a model each."""


@dataclass(frozen=True)
class Machine:
    """What a job can have."""

    count: int
    """Nodes that are alike."""
    node: Nodes

    @property
    def gpus(self) -> int:
        return self.count * self.node.gpus


def placed(cfg: C, machine: Machine | None = None) -> C:
    """`cfg` with a placement that fits `machine`, where it leaves that open; None = the cluster that a run would
    connect to, else this machine. Raises ConfigError for GPUs in a cluster that are not known."""
    if not placement_is_auto(cfg):
        return cfg
    machine = machine or _machine(cfg)
    has_gpus = machine.gpus > 0 and cfg.device != "cpu"
    cfg = with_dtypes(cfg, has_gpus)
    chosen = _on_gpus(cfg, machine) if has_gpus else _on_cpus(cfg, machine)
    return cfg if chosen is None else _checked(cfg, chosen)


def _checked(cfg: C, placement: Placement) -> C:
    keys = cfg.model_dump(mode="json") | {"placement": placement.model_dump(mode="json")}
    return type(cfg).model_validate(keys)


def _on_cpus(cfg: RunConfig, machine: Machine) -> Placement:
    """As many processors for each actor, whole ones where there is one, since threads are whole."""
    jobs = first_round(cfg) if isinstance(cfg, IterateConfig) else (cfg,)
    actors = max(sum(placed.actors for placed in job.roles.values()) for job in jobs)
    share = min(machine.count * machine.node.cpus / actors, machine.node.cpus)
    each = float(math.floor(share)) if share >= 1 else math.floor(100 * share) / 100
    usual: Placement = Placement()
    own = {name: value for name in Placement.model_fields if isinstance(value := getattr(usual, name), Resources)}
    return Placement(**{name: placed.model_copy(update={"num_cpus": each}) for name, placed in own.items()})


def _on_gpus(cfg: RunConfig, machine: Machine) -> Placement | None:
    """None where nothing can be said: a model that is not here, or a job of several jobs."""
    if isinstance(cfg, PPOConfig):
        if None in facts_of(cfg).sizes.values():
            return None
        return propose(cfg, machine.count, machine.node, tune=False).cfg.placement
    return None if isinstance(cfg, IterateConfig) else _judging(cfg, machine)


def _judging(cfg: Any, machine: Machine) -> Placement | None:
    """Of a job that samples and scores: a GPU for each model that scores, the others for generators; where there are
    too few, models share what generators leave."""
    shards = cfg.generator.tensor_parallel_size
    scoring = [role for role in _ON_DEVICES if role in cfg.roles]
    left = float(machine.gpus - shards)
    if left < 0 or (left == 0 and shards > 1 and scoring):
        return None
    own = float(shards)
    if left == 0 and scoring:  # they share the one GPU
        own = cfg.generator.gpu_memory_utilization
        left = 1.0 - own
    each = 1.0 if left >= len(scoring) else math.floor(100 * left / len(scoring)) / 100
    more = int(left - len(scoring) * each) // shards if own == shards else 0
    actors = 1 + more + len(scoring) + 2  # an encoder and reward functions
    cpus = max(0.01, math.floor(100 * min(4.0, machine.count * machine.node.cpus / actors)) / 100)
    generator = GeneratorPlacement(replicas=Replicas(min=1 + more, max=1 + more), num_gpus=own, num_cpus=cpus)
    usual = Placement()
    others = {role: getattr(usual, role).model_copy(update={"num_gpus": each, "num_cpus": cpus}) for role in scoring}
    small = {role: getattr(usual, role).model_copy(update={"num_cpus": cpus}) for role in ("encoder", "functions")}
    return Placement(**{"generator": generator, **others, **small})


def _machine(cfg: RunConfig) -> Machine:
    if starts_cluster():
        return machine_here(cfg)
    import ray

    with ray_session(env=cfg.env):
        return machine_of(ray.nodes())


def machine_here(cfg: RunConfig) -> Machine:
    """Its GPUs are looked for where the job may have some."""
    cpus, host = float(os.cpu_count() or 1), psutil.virtual_memory().total / GIB
    if cfg.device == "cpu":
        return Machine(1, Nodes(0, cpus, host_gb=host))
    import torch

    gpus = torch.cuda.device_count()
    return Machine(1, Nodes(gpus, cpus, _device_here() if gpus else H100, host))


def _device_here() -> Device:
    """With its own memory; one that is not known is taken to be as fast as an H100: what is compared is on it alone."""
    import torch

    properties = torch.cuda.get_device_properties(0)
    try:
        known = device_named(properties.name)
    except ConfigError:
        known = H100
    return replace(known, name=properties.name, memory_gb=properties.total_memory / GIB)


def machine_of(nodes: Sequence[Mapping[str, Any]]) -> Machine:
    """Of a cluster's nodes, as Ray lists them: those with most GPUs. Raises ConfigError for GPUs that are not known."""
    alive = [node["Resources"] for node in nodes if node["Alive"] and node["Resources"].get("CPU")]
    if not alive:
        raise ConfigError("placement: no node of the cluster has processors; start Ray there with --num-cpus")
    gpus = max(int(has.get("GPU", 0)) for has in alive)
    alike = [has for has in alive if int(has.get("GPU", 0)) == gpus]
    names = [key.removeprefix(_ACCELERATOR) for key in alike[0] if key.startswith(_ACCELERATOR)]
    try:
        device = device_named(names[0] if names else "unknown") if gpus else H100
    except ConfigError as error:
        raise ConfigError(f"placement: auto cannot be worked out: {error}; say what each role reserves") from None
    cpus, host = (min(has.get(name, 0.0) for has in alike) for name in ("CPU", "memory"))
    return Machine(len(alike), Nodes(gpus, cpus, device, host / GIB))
