"""The needs of a PPO job, worked out without starting anything: placement, memory, batch arithmetic."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import ceil

from mmrlhf_ray.config import EngineConfig, LearnerConfig, ModelConfig, PartConfig, PPOConfig
from mmrlhf_ray.errors import ConfigError, PlacementError
from mmrlhf_ray.planning.memory import (
    GIB,
    ModelSize,
    check_learners,
    generator_bytes,
    kv_sequences,
    learner_bytes,
    lora_parameters,
    model_size,
    server_bytes,
)
from mmrlhf_ray.planning.placement import LEARNERS, Reservation, check_consistent, reservations

# vLLM, CUDA and fragmentation take some of every GPU.
_USABLE = 0.92
_ITEMS = ("parameters", "gradients", "optimizer", "buffers", "activations", "logits", "kv_cache")


@dataclass(frozen=True)
class NodeLoad:
    """One node and the bundles on it."""

    cpus: float
    gpus: float
    replicas: dict[str, int]


@dataclass(frozen=True)
class RoleMemory:
    """Memory of one rank or replica, per device."""

    role: str
    on_gpu: bool
    items: dict[str, float]
    """Bytes by what takes them."""
    limit: float | None
    """Bytes that the role may take; None = host memory, which is not judged."""

    @property
    def total(self) -> float:
        return sum(self.items.values())


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
    gpus_per_node: int
    cpus_per_node: float
    memory: tuple[RoleMemory, ...]
    batch: BatchPlan
    trained: dict[str, int]
    """Learner role → parameters that it trains, where its model is here."""
    warnings: tuple[str, ...]


def plan_ppo(cfg: PPOConfig, gpus_per_node: int = 8, cpus_per_node: float = 96.0, gpu_memory_gb: float = 80.0) -> Plan:
    """Plan `cfg` for nodes of the given size (GPU memory in GiB); needs neither Ray nor the model.

    Raises ConfigError for keys that contradict each other, PlacementError for actors that no such node can hold.
    """
    check_consistent(cfg)
    roles = reservations(cfg)
    nodes = _pack(roles, cfg.placement.strategy, gpus_per_node, cpus_per_node)
    models = _models(cfg)
    sizes = {key: model_size(model) for key, model in models.items()}
    _check_context(cfg, sizes["policy"])
    counted = check_learners(cfg)
    trained = {role: counted[section] for role, section in LEARNERS.items() if section in counted}
    known = {key: size for key, size in sizes.items() if size is not None}
    memory = tuple(_memory(cfg, known, trained, gpu_memory_gb * GIB))
    warnings = (*_unknown(models, sizes), *_memory_warnings(cfg, memory, sizes["policy"]), *_sharing_warnings(cfg))
    return Plan(cfg, roles, nodes, gpus_per_node, cpus_per_node, memory, _batch(cfg), trained, warnings)


def _models(cfg: PPOConfig) -> dict[str, ModelConfig]:
    """Configuration key → every model that some role loads."""
    found = {"policy": cfg.policy}
    found |= {"reference": cfg.reference or cfg.policy} if "reference" in cfg.roles else {}
    found |= {f"rewards.{reward.name}": reward.model for reward in cfg.model_rewards}
    return found | ({"critic": cfg.critic_model} if "critic" in cfg.roles else {})


def _pack(roles: tuple[Reservation, ...], strategy: str, gpus: int, cpus: float) -> tuple[NodeLoad, ...]:
    """Nodes that hold one bundle per replica: largest first, each to the first node with room."""
    for role in roles:
        for name, need, have in (("GPUs", role.num_gpus, gpus), ("CPUs", role.num_cpus, cpus)):
            if need > have:
                raise PlacementError(
                    f"{role.key}: one {role.role} needs {need:g} {name}, a node has {have:g}; "
                    f"an actor cannot span nodes"
                )
    spread = strategy == "STRICT_SPREAD"
    nodes: list[NodeLoad] = []
    for role in sorted(roles, key=lambda r: (-r.num_gpus, -r.num_cpus)):
        for _ in range(role.replicas):
            found = None if spread else next((n for n in nodes if _has_room(n, role, gpus, cpus)), None)
            node = found or NodeLoad(0.0, 0.0, {})
            grown = NodeLoad(
                node.cpus + role.num_cpus,
                node.gpus + role.num_gpus,
                node.replicas | {role.role: node.replicas.get(role.role, 0) + 1},
            )
            if found is None:
                nodes.append(grown)
            else:
                nodes[nodes.index(found)] = grown
    if strategy == "STRICT_PACK" and len(nodes) > 1:
        raise PlacementError(
            f"placement.strategy=STRICT_PACK wants one node, the actors need {len(nodes)}; use PACK or fewer replicas"
        )
    return tuple(nodes)


def _has_room(node: NodeLoad, role: Reservation, gpus: int, cpus: float) -> bool:
    return node.gpus + role.num_gpus <= gpus + 1e-6 and node.cpus + role.num_cpus <= cpus + 1e-6


def _check_context(cfg: PPOConfig, size: ModelSize | None) -> None:
    longest = cfg.data.max_prompt_tokens + cfg.sampling.max_response_tokens
    if size is not None and size.context is not None and longest > size.context:
        raise ConfigError(
            f"data.max_prompt_tokens + sampling.max_response_tokens = {longest} is more than the {size.context} "
            f"tokens of {cfg.policy.path}; lower one of them"
        )


def _response_tokens(cfg: PPOConfig, budget: int) -> int:
    """Response tokens in a pass full of rows of full length."""
    limit = cfg.sampling.max_response_tokens
    return max(1, budget // (cfg.data.max_prompt_tokens + limit)) * limit


def _memory(cfg: PPOConfig, sizes: dict[str, ModelSize], trained: dict[str, int], gpu: float) -> Iterator[RoleMemory]:
    place, tokens = cfg.placement, cfg.score_micro_batch_tokens

    def of(role: str, items: dict[str, float]) -> RoleMemory:
        gpus = getattr(place, role).num_gpus
        return RoleMemory(role, gpus > 0, items, gpu * _USABLE * min(1.0, gpus) if gpus else None)

    def learner(role: str, size: ModelSize, model: ModelConfig, config: LearnerConfig) -> RoleMemory:
        engine, ranks = config.engine, getattr(place, role).replicas
        responses = _response_tokens(cfg, engine.micro_batch_tokens)
        learns = trained.get(role, lora_parameters(size, config.lora) if config.lora else None)
        return of(role, learner_bytes(size, model.dtype, engine, ranks, responses, role == "policy", learns))

    def server(role: str, size: ModelSize, model: ModelConfig, responses: int) -> dict[str, float]:
        placed, together = getattr(place, role), role == "reference" and cfg.reference_engine == "zero3"
        devices = placed.replicas if together else max(1, ceil(placed.num_gpus))
        head = role == "reference"
        return server_bytes(size, model.dtype, tokens, responses, devices, vocabulary_head=head, gathers=together)

    if "policy" in sizes:
        on_gpu = gpu if place.generator.num_gpus else None
        yield of("generator", generator_bytes(sizes["policy"], cfg.policy.dtype, cfg.generator, on_gpu))
    scoring = [(sizes[key], r.model) for r in cfg.model_rewards if (key := f"rewards.{r.name}") in sizes]
    if scoring:  # one actor holds them all
        each = [server("scorer", size, model, 0) for size, model in scoring]
        yield of("scorer", {name: sum(items[name] for items in each) for name in each[0]})
    if "reference" in sizes:
        responses = _response_tokens(cfg, tokens)
        yield of("reference", server("reference", sizes["reference"], cfg.reference or cfg.policy, responses))
    if "policy" in sizes:
        yield learner("policy", sizes["policy"], cfg.policy, cfg.learner)
    if "critic" in sizes:
        yield learner("critic", sizes["critic"], cfg.critic_model, cfg.critic)


def _unknown(models: dict[str, ModelConfig], sizes: dict[str, ModelSize | None]) -> Iterator[str]:
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
            longest = cfg.data.max_prompt_tokens + cfg.sampling.max_response_tokens
            held = kv_sequences(policy, cfg.policy.dtype, cfg.generator, role.items["kv_cache"], longest)
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
    if largest in ("activations", "logits"):
        return f"lower {section}.engine.micro_batch_tokens"
    if engine.zero_stage < 3:
        return f"raise {section}.engine.zero_stage or placement.{role.role}.replicas"
    return f"raise placement.{role.role}.replicas or set {section}.engine.offload_optimizer"


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
    longest = cfg.data.max_prompt_tokens + cfg.sampling.max_response_tokens
    per_rank, passes = {}, {}
    for role, engine in (("policy", cfg.learner.engine), ("critic", cfg.critic.engine)):
        if role not in cfg.roles:
            continue
        ranks = getattr(cfg.placement, role).replicas
        least, most = a.mini_batch_size // ranks, ceil(a.mini_batch_size / ranks)
        per_rank[role] = (least, most)
        # A row has at least one prompt and one response token.
        passes[role] = (
            ceil(2 * least / engine.micro_batch_tokens),
            ceil(most / (engine.micro_batch_tokens // longest)),
        )
    return BatchPlan(responses, responses // a.mini_batch_size * a.ppo_epochs, responses * cfg.steps, per_rank, passes)


def render(plan: Plan) -> str:
    """The plan as text for a terminal."""
    cfg = plan.cfg
    lines = [f"Plan of {cfg.name}: {cfg.steps} steps, device {cfg.device}. Nothing was started.", ""]
    lines += [f"Placement ({cfg.placement.strategy})", *_placement_table(plan), ""]
    if plan.memory:
        lines += ["Memory per rank or replica and device, GiB (estimates)", *_memory_table(plan.memory), ""]
    if plan.trained:
        lines += ["Trained parameters", *_trained_lines(plan), ""]
    lines += ["Batch", *_batch_lines(plan), ""]
    lines += [f"Warning: {warning}" for warning in plan.warnings] or ["No warnings."]
    return "\n".join(lines)


def _table(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  " + "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:]))]).rstrip()
        for row in rows
    ]


def role_table(roles: Sequence[Reservation]) -> list[str]:
    """Lines with what each role reserves, and all of them."""
    rows = [["role", "replicas", "CPUs each", "GPUs each", "CPUs", "GPUs"]]
    rows += [
        [r.role, *(f"{x:g}" for x in (r.replicas, r.num_cpus, r.num_gpus, r.total_cpus, r.total_gpus))] for r in roles
    ]
    cpus, gpus = sum(r.total_cpus for r in roles), sum(r.total_gpus for r in roles)
    return _table([*rows, ["total", str(sum(r.replicas for r in roles)), "", "", f"{cpus:g}", f"{gpus:g}"]])


def _placement_table(plan: Plan) -> list[str]:
    gpus = sum(r.total_gpus for r in plan.roles)
    size = f"{plan.gpus_per_node} GPUs and {plan.cpus_per_node:g} CPUs" if gpus else f"{plan.cpus_per_node:g} CPUs"
    nodes = [f"  {len(plan.nodes)} node{'s' if len(plan.nodes) > 1 else ''} of {size}:"]
    first = 1
    for node, alike in groupby(plan.nodes):
        last = first + len(list(alike)) - 1
        held = ", ".join(f"{count} {role}" for role, count in node.replicas.items())
        which = f"{first}" if first == last else f"{first} to {last}, each"
        nodes.append(f"    {which}: {node.gpus:g} GPUs, {node.cpus:g} CPUs: {held}")
        first = last + 1
    return [*role_table(plan.roles), *nodes]


def _memory_table(memory: tuple[RoleMemory, ...]) -> list[str]:
    used = [name for name in _ITEMS if any(name in role.items for role in memory)]
    rows = [["role", "on", *used, "total", "usable"]]
    for role in memory:
        cells = [f"{role.items[name] / GIB:.2f}" if name in role.items else "-" for name in used]
        limit = "-" if role.limit is None else f"{role.limit / GIB:.1f}"
        rows.append([role.role, "GPU" if role.on_gpu else "host", *cells, f"{role.total / GIB:.2f}", limit])
    return _table(rows)


def _trained_lines(plan: Plan) -> list[str]:
    lines = []
    for role, count in plan.trained.items():
        learner = plan.cfg.learner if role == "policy" else plan.cfg.critic
        own = {name: part for name, part in learner.parts if part != PartConfig()}
        said = [f"{name} {f'at lr={p.lr:g}' if p.train and p.lr else 'frozen'}" for name, p in own.items()]
        if learner.lora:
            said = [f"an adapter of rank {learner.lora.rank}"]
        lines.append(f"  {role}: {count:,}" + (f" ({', '.join(said)})" if said else ""))
    return lines


def _batch_lines(plan: Plan) -> list[str]:
    a, b = plan.cfg.algorithm, plan.batch
    lines = [
        f"  responses per PPO step: {a.prompts_per_step} prompts × {a.n_samples_per_prompt} = {b.responses_per_step}",
        f"  optimizer steps per PPO step: {b.responses_per_step} / {a.mini_batch_size} × {a.ppo_epochs} epochs "
        f"= {b.optimizer_steps}",
        f"  responses in the entire run: {b.responses_in_run}",
    ]
    for role, (least, most) in b.responses_per_rank.items():
        count = f"{least}" if least == most else f"{least} to {most}"
        passes = b.micro_batches[role]
        lines.append(
            f"  {role}: about {count} responses per rank and optimizer step, in {passes[0]} to {passes[1]} forward "
            f"passes (shortest to longest responses)"
        )
    return lines
