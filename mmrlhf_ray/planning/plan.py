"""The needs of a PPO job, worked out without starting anything: placement, memory, batch arithmetic."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import ceil

from mmrlhf_ray.config import EngineConfig, LearnerConfig, ModelConfig, PPOConfig
from mmrlhf_ray.errors import ConfigError
from mmrlhf_ray.planning.activations import inferring_pass
from mmrlhf_ray.planning.colocation import SharedDevice, shared_devices
from mmrlhf_ray.planning.devices import H100_NODES, Nodes
from mmrlhf_ray.planning.host import host_bytes
from mmrlhf_ray.planning.loads import cached_tokens, pass_loads
from mmrlhf_ray.planning.memory import (
    PASS_ITEMS,
    RoleMemory,
    generator_bytes,
    kv_sequences,
    learner_bytes,
    peak,
    server_bytes,
)
from mmrlhf_ray.planning.packing import NodeLoad, pack
from mmrlhf_ray.planning.placement import LEARNERS, Reservation, check_consistent, reservations
from mmrlhf_ray.planning.sizes import GIB, ModelSize, check_learners, model_size, trained_parameters
from mmrlhf_ray.planning.step_time import StepTime, step_time

# vLLM, CUDA and fragmentation take some of every GPU.
_USABLE = 0.92

_HOST_REMEDIES = {
    "processes": "spread the actors over more nodes",
    "loading": "use zero_stage 3, which loads a rank's share alone, or fewer ranks on a node",
    "offloaded": "spread the ranks over more nodes, or leave the optimizer's state on the GPUs",
    "buckets": "lower generator.bucket_mb",
    "encoder cache": "lower data.encoder_cache_mb or placement.encoder.replicas",
    "waiting": "spread the roles that share devices over more nodes, or take one out of placement.colocate",
    "features": "lower algorithm.prompts_per_step or data.max_prompt_tokens",
}


@dataclass(frozen=True)
class BatchPlan:
    """Batch arithmetic. Ranges are (least, most)."""

    responses_per_step: int
    optimizer_steps: int
    """Per PPO step."""
    responses_in_run: int
    responses_per_rank: dict[str, tuple[int, int]]
    """Per optimizer step, by learner role."""
    micro_batches: dict[str, tuple[int, int]]
    """Forward passes of a rank per optimizer step: all responses one token long, or all of full length."""


@dataclass(frozen=True)
class Plan:
    """The answer of `plan_ppo`."""

    cfg: PPOConfig
    roles: tuple[Reservation, ...]
    nodes: tuple[NodeLoad, ...]
    node: Nodes
    memory: tuple[RoleMemory, ...]
    shared: tuple[SharedDevice, ...]
    """Devices that roles take turns on, one of each group."""
    batch: BatchPlan
    trained: dict[str, int]
    """Learner role → parameters that it trains, where its model is here."""
    time: StepTime | None
    """None = not known: a model whose size is not known, or a role without a GPU."""
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Facts:
    """What is known of a job's models, whatever its placement."""

    sizes: Mapping[str, ModelSize | None]
    """Of every model that some role loads, by configuration key; None = not known."""
    trained: dict[str, int]
    """Learner role → parameters that it trains, where its model is here."""

    @property
    def known(self) -> dict[str, ModelSize]:
        """The sizes that are known."""
        return {key: size for key, size in self.sizes.items() if size is not None}


def facts_of(cfg: PPOConfig) -> Facts:
    """Looks at the models' directories. Raises ConfigError, ModelError."""
    sizes = {key: model_size(model) for key, model in _models(cfg).items()}
    _check_context(cfg, sizes["policy"])
    counted = check_learners(cfg)
    return Facts(sizes, {role: counted[section] for role, section in LEARNERS.items() if section in counted})


def plan_ppo(cfg: PPOConfig, node: Nodes = H100_NODES, facts: Facts | None = None) -> Plan:
    """Plan `cfg` for nodes of that kind; needs neither Ray nor the model. `facts`: facts_of(), where it is known.

    Raises ConfigError for keys that contradict each other, PlacementError for actors that no such node can hold.
    """
    check_consistent(cfg)
    facts, roles = facts or facts_of(cfg), reservations(cfg)
    known, trained = facts.known, facts.trained
    memory = tuple(role_memory(cfg, known, trained, node.device.memory_gb * GIB))
    shared = tuple(shared_devices(cfg, {role.role: role for role in memory}))
    nodes = tuple(
        replace(load, host=host_bytes(cfg, load.replicas, known, trained, shared))
        for load in pack(roles, cfg.placement.strategy, node)
    )
    warnings = (
        *_unknown(_models(cfg), facts.sizes),
        *_memory_warnings(cfg, memory, known.get("policy")),
        *_shared_warnings(shared),
        *_host_warnings(nodes, node),
        *_sharing_warnings(cfg),
    )
    on_gpus = all(getattr(cfg.placement, role).num_gpus for role in ("generator", "policy"))
    known_all = on_gpus and len(known) == len(facts.sizes)
    time = step_time(cfg, known, trained, node, sum(device.moved for device in shared)) if known_all else None
    return Plan(cfg, roles, nodes, node, memory, shared, _batch(cfg), trained, time, warnings)


def _models(cfg: PPOConfig) -> dict[str, ModelConfig]:
    """Configuration key → every model that some role loads."""
    found = {"policy": cfg.policy}
    found |= cfg.served
    found |= {f"rewards.{reward.name}": reward.model for reward in cfg.model_rewards}
    return found | ({"critic": cfg.critic_model} if "critic" in cfg.roles else {})


def _check_context(cfg: PPOConfig, size: ModelSize | None) -> None:
    longest = cfg.data.most_prompt_tokens + cfg.sampling.max_response_tokens
    if size is not None and size.context is not None and longest > size.context:
        raise ConfigError(
            f"data.max_prompt_tokens + sampling.max_response_tokens = {longest} is more than the {size.context} "
            f"tokens of {cfg.policy.path}; lower one of them"
        )


def role_memory(
    cfg: PPOConfig, sizes: Mapping[str, ModelSize], trained: Mapping[str, int], gpu: float
) -> Iterator[RoleMemory]:
    """Of one rank or replica of each role whose model is known. `sizes` by configuration key; `trained`: learner role →
    parameters that it trains, where they were counted; `gpu`: bytes of one."""
    place, a = cfg.placement, cfg.algorithm
    step = a.prompts_per_step * a.n_samples_per_prompt

    def of(role: str, items: dict[str, float]) -> RoleMemory:
        gpus = getattr(place, role).num_gpus
        return RoleMemory(role, gpus > 0, items, gpu * _USABLE * min(1.0, gpus) if gpus else None)

    def learner(role: str, size: ModelSize, model: ModelConfig, config: LearnerConfig) -> RoleMemory:
        engine, ranks, head = config.engine, getattr(place, role).replicas, role == "policy"
        learns = trained.get(role, trained_parameters(size, config))
        towers = config.learns("vision_tower")
        spread = engine.sequence_parallel
        responses = ceil(a.update_size * spread / ranks)
        loads = tuple(pass_loads(cfg, size, engine.micro_batch_tokens, responses, spread))
        each = (learner_bytes(size, model.compute_dtype, engine, ranks, load, head, learns, towers) for load in loads)
        asked = max(sum(inferring_pass(size, model.compute_dtype, load, logits=head).values()) for load in loads)
        return replace(of(role, max(each, key=peak)), asked=asked)

    def server(role: str, size: ModelSize, model: ModelConfig) -> dict[str, float]:
        placed, together = getattr(place, role), role == "reference" and cfg.reference_engine == "zero3"
        dtype = model.compute_dtype
        loads = pass_loads(cfg, size, cfg.score_micro_batch_tokens, ceil(step / placed.replicas))
        devices, head = placed.replicas if together else max(1, ceil(placed.num_gpus)), role == "reference"
        return max((server_bytes(size, dtype, load, devices, head, gathers=together) for load in loads), key=peak)

    if "policy" in sizes:
        on_gpu = gpu if place.generator.num_gpus else None
        yield of("generator", generator_bytes(sizes["policy"], cfg.policy.compute_dtype, cfg.generator, on_gpu))
    scoring = [(sizes[key], r.model) for r in cfg.model_rewards if (key := f"rewards.{r.name}") in sizes]
    if scoring:  # one actor holds them all, and asks one at a time
        yield of("scorer", _held_together([server("scorer", size, model) for size, model in scoring]))
    answering = [(sizes[key], model) for key, model in cfg.served.items() if key in sizes]
    if answering:
        yield of("reference", _held_together([server("reference", size, model) for size, model in answering]))
    if "policy" in sizes:
        yield learner("policy", sizes["policy"], cfg.policy, cfg.learner)
    if "critic" in sizes:
        yield learner("critic", sizes["critic"], cfg.critic_model, cfg.critic)


def _held_together(each: list[dict[str, float]]) -> dict[str, float]:
    largest = max(each, key=lambda items: sum(items.get(name, 0.0) for name in PASS_ITEMS))
    return largest | {"parameters": sum(items["parameters"] for items in each)}


def _unknown(models: Mapping[str, ModelConfig], sizes: Mapping[str, ModelSize | None]) -> Iterator[str]:
    told: set[str] = set()
    for key, size in sizes.items():
        path = models[key].path
        if size is None and path not in told:
            told.add(path)
            yield f"{key}: {path} is not a directory here: its memory is left out; give its `shape` to have it"


def _memory_warnings(cfg: PPOConfig, memory: tuple[RoleMemory, ...], policy: ModelSize | None) -> Iterator[str]:
    for role in memory:
        if role.limit is not None and role.total > role.limit:
            yield (
                f"{role.role}: about {role.total / GIB:.1f} GiB per GPU, of which {role.limit / GIB:.1f} are usable; "
                f"{_remedy(cfg, role)}"
            )
        if role.role == "generator" and policy is not None:
            held = kv_sequences(
                policy, cfg.policy.compute_dtype, cfg.generator, role.items["kv_cache"], cached_tokens(cfg)
            )
            if held < 1:
                yield "generator: no room for the KV cache; raise gpu_memory_utilization or tensor_parallel_size"
            elif held < cfg.generator.max_num_seqs:
                yield (
                    f"generator: the KV cache holds {held} sequences of full length, fewer than "
                    f"generator.max_num_seqs={cfg.generator.max_num_seqs}; long ones will wait for each other"
                )


def _remedy(cfg: PPOConfig, role: RoleMemory) -> str:
    largest = max(role.items, key=lambda name: role.items[name])
    if role.role == "generator":
        return "lower generator.gpu_memory_utilization or raise generator.tensor_parallel_size"
    if role.role in ("scorer", "reference"):
        if largest == "parameters":
            together = role.role == "reference" and cfg.reference_engine == "zero3"
            return f"raise placement.{role.role}.{'replicas' if together else 'num_gpus'} or use bfloat16"
        return "lower score_micro_batch_tokens"
    section = "learner" if role.role == "policy" else "critic"
    engine: EngineConfig = getattr(cfg, section).engine
    if largest == "activations" and not engine.gradient_checkpointing:
        return f"set {section}.engine.gradient_checkpointing"
    if largest in PASS_ITEMS:
        return f"lower {section}.engine.micro_batch_tokens"
    if engine.zero_stage < 3:
        return f"raise {section}.engine.zero_stage or placement.{role.role}.replicas"
    return f"raise placement.{role.role}.replicas or set {section}.engine.offload_optimizer"


def _host_warnings(nodes: tuple[NodeLoad, ...], kind: Nodes) -> Iterator[str]:
    fullest = max(nodes, key=lambda node: sum(node.host.values()))
    taken = sum(fullest.host.values())
    if kind.gpus and taken > kind.host_gb * GIB:
        largest = max(fullest.host, key=lambda name: fullest.host[name])
        yield (
            f"host memory: about {taken / GIB:.0f} GiB of a node's {kind.host_gb:g}, most of it {largest} "
            f"({fullest.host[largest] / GIB:.0f}); {_HOST_REMEDIES[largest]}"
        )


def _shared_warnings(shared: tuple[SharedDevice, ...]) -> Iterator[str]:
    for device in shared:
        phase = device.fullest
        if device.limit is not None and device.too_full:
            parts = ", ".join(f"{role} {held / GIB:.1f}" for role, held in device.phases[phase].items())
            yield (
                f"placement.colocate: about {device.total(phase) / GIB:.1f} GiB on a device while roles {phase}, of "
                f"which {device.limit / GIB:.1f} are usable ({parts}); take a role out of the group, or have it need "
                "less"
            )


def _sharing_warnings(cfg: PPOConfig) -> Iterator[str]:
    grouped = {"policy", "critic", *(["reference"] if cfg.reference_engine == "zero3" else [])}
    for role in sorted(grouped & set(cfg.roles)):
        placed = getattr(cfg.placement, role)
        if 0 < placed.num_gpus <= 0.5 and placed.replicas > 1:
            yield (
                f"placement.{role}.num_gpus={placed.num_gpus:g}: two ranks may land on one GPU, which NCCL refuses; "
                f"reserve more than 0.5"
            )


def _batch(cfg: PPOConfig) -> BatchPlan:
    a = cfg.algorithm
    responses = a.prompts_per_step * a.n_samples_per_prompt
    longest = cfg.data.most_prompt_tokens + cfg.sampling.max_response_tokens
    per_rank, passes = {}, {}
    for role, engine in (("policy", cfg.learner.engine), ("critic", cfg.critic.engine)):
        if role not in cfg.roles:
            continue
        spread = engine.sequence_parallel
        ranks = getattr(cfg.placement, role).replicas // spread  # neighbours are given the same rows
        least, most = a.update_size // ranks, ceil(a.update_size / ranks)
        per_rank[role] = (least, most)
        # A row has at least one prompt and one response token.
        passes[role] = (
            ceil(2 * least / (engine.micro_batch_tokens * spread)),
            ceil(most / (engine.micro_batch_tokens * spread // longest)),
        )
    return BatchPlan(responses, responses // a.update_size * a.ppo_epochs, responses * cfg.steps, per_rank, passes)
