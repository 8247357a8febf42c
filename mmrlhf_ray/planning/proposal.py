"""A proposed placement as text: why it is so, and the keys to paste into a job's file."""

from collections.abc import Iterator
from typing import Any

import yaml

from mmrlhf_ray.config import PPOConfig
from mmrlhf_ray.planning.devices import Nodes
from mmrlhf_ray.planning.loads import cached_tokens
from mmrlhf_ray.planning.memory import RoleMemory, kv_sequences
from mmrlhf_ray.planning.placement import LEARNERS
from mmrlhf_ray.planning.plan import Facts, Plan, facts_of
from mmrlhf_ray.planning.propose import Proposal
from mmrlhf_ray.planning.render import render, wrapped
from mmrlhf_ray.planning.sizes import GIB

_ENGINE = ("zero_stage", "offload_optimizer", "micro_batch_tokens", "gradient_checkpointing")
_GENERATOR = ("tensor_parallel_size", "gpu_memory_utilization", "max_num_seqs", "enforce_eager")


def render_proposal(proposal: Proposal, count: int, node: Nodes) -> str:
    """For a terminal of 80 columns."""
    plan = proposal.plan
    lines = [f"Proposed for {count} × {node.gpus} {node.device.name}: {proposal.way}"]
    lines += [line for reason in _reasons(proposal) for line in wrapped(f"  {reason}")]
    _, *shown = render(plan).splitlines()
    return "\n".join([*lines, *shown, "", "To paste into the job's file:", "", as_yaml(plan.cfg).rstrip()])


def _reasons(proposal: Proposal) -> Iterator[str]:
    plan = proposal.plan
    if plan.time is not None:
        longest = plan.time.bottleneck
        yield f"{plan.time.seconds:.0f} s a step; the longest is {longest.name}, bound by {longest.bound_by}"
    facts = facts_of(plan.cfg)
    memory = {role.role: role for role in plan.memory}
    yield _of_generator(plan, memory["generator"], facts)
    for role, section in LEARNERS.items():
        if role in memory:
            yield _of_learner(plan.cfg, memory[role], section)
    for device in plan.shared:
        held = f"{device.total(device.fullest) / GIB:.1f} GiB of a GPU while they {device.fullest}"
        yield f"in turns: {held}, {max(device.waiting.values()) / GIB:.1f} GiB wait in host memory"
    yield from (f"tried as well: {other}" for other in proposal.others)


def _of_generator(plan: Plan, role: RoleMemory, facts: Facts) -> str:
    cfg, size = plan.cfg, facts.known["policy"]
    cache, shards = role.items["kv_cache"], cfg.generator.tensor_parallel_size
    held = kv_sequences(size, cfg.policy.compute_dtype, cfg.generator, cache, cached_tokens(cfg))
    weights = f"weights take {role.items['parameters'] / GIB:.1f} GiB of each GPU"
    of = f"{shards} GPUs" if shards > 1 else "one GPU"
    return f"a generator has {of}: {weights}, and the cache holds {held} responses of full length"


def _of_learner(cfg: PPOConfig, role: RoleMemory, section: str) -> str:
    engine, ranks = getattr(cfg, section).engine, getattr(cfg.placement, role.role).replicas
    what = "an adapter" if getattr(cfg, section).lora else "all weights"
    host = ", the optimizer's state in host memory" if engine.offload_optimizer else ""
    limit = "" if role.limit is None else f" of {role.limit / GIB:.1f} usable"
    return (
        f"{role.role}: {what}, ZeRO-{engine.zero_stage} over {ranks} rank{'s' if ranks > 1 else ''}{host}: "
        f"{role.total / GIB:.1f} GiB{limit}, in passes of {engine.micro_batch_tokens} tokens"
    )


def as_yaml(cfg: PPOConfig) -> str:
    """The keys that were chosen."""
    block: dict[str, Any] = {
        "algorithm": {"mismatch": {"correction": cfg.algorithm.mismatch.correction}},
        "stream": _given(cfg.stream, "max_staleness", *(["in_flight"] if cfg.stream.in_flight != "keep" else [])),
        "generator": _given(cfg.generator, *_GENERATOR),
    }
    for role, section in LEARNERS.items():
        if role in cfg.roles:
            own = getattr(cfg, section)
            block[section] = {"engine": _given(own.engine, *_ENGINE)}
            if own.lora is not None:
                block[section] |= {"lora": own.lora.model_dump(mode="json", exclude_defaults=True)}
    if {"scorer", "reference"} & set(cfg.roles):
        block["score_micro_batch_tokens"] = cfg.score_micro_batch_tokens
    if "reference" in cfg.roles:
        block["reference_engine"] = cfg.reference_engine
    block["placement"] = placement_keys(cfg)
    return yaml.safe_dump(block, sort_keys=False, default_flow_style=None, width=100)


def placement_keys(cfg: PPOConfig) -> dict[str, Any]:
    """What `placement` says of the roles that the job has."""
    of_all = cfg.placement.model_dump(
        mode="json", exclude={*type(cfg.placement).model_fields} - {"colocate", "strategy"}
    )
    own = {key: value for key, value in of_all.items() if value}
    return own | {role: placed.model_dump(mode="json", exclude={"threads"}) for role, placed in cfg.roles.items()}


def _given(section: Any, *names: str) -> dict[str, Any]:
    return {name: getattr(section, name) for name in names}
