"""A placement for given nodes: the one with the shortest step of those that fit."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from typing import Any

from pydantic import ValidationError

from mmrlhf_ray.config import LoRAConfig, PPOConfig
from mmrlhf_ray.config.parts import PartsConfig
from mmrlhf_ray.config.placement import (
    GeneratorPlacement,
    LearnerPlacement,
    Placement,
    Replicas,
    Resources,
    RolePlacement,
)
from mmrlhf_ray.config.problems import problem
from mmrlhf_ray.errors import ConfigError, PlacementError
from mmrlhf_ray.planning.devices import Nodes
from mmrlhf_ray.planning.loads import cached_tokens
from mmrlhf_ray.planning.memory import generator_bytes, kv_sequences
from mmrlhf_ray.planning.placement import LEARNERS
from mmrlhf_ray.planning.plan import Facts, Plan, facts_of, plan_ppo
from mmrlhf_ray.planning.sizes import GIB

SHARDS = (1, 2, 4, 8)
"""GPUs of a generator."""
ON_DEVICES = ("generator", "scorer", "reference", "policy", "critic")
_STAGES = ((2, False), (3, False), (3, True))
"""ZeRO stage, and whether the optimizer is in host memory: in the order of their cost."""
_PASSES = (32768, 24576, 20480, 16384, 12288, 8192, 4096)
"""Tokens of a pass."""
_MOST_SEQUENCES = 256
_SHOWN = 2
_LORA = LoRAConfig(rank=32, alpha=64)
# Of a node's processors: its GPUs' actors, encoders, reward functions. One that feeds a GPU needs a few at most.
_FOR_GPUS, _FOR_ENCODERS, _FOR_FUNCTIONS = 0.6, 0.3, 0.1
_MOST_CPUS, _MOST_ENCODER_CPUS, _MOST_FUNCTION_CPUS = 4.0, 16.0, 2.0


@dataclass(frozen=True)
class Proposal:
    """A job with a placement that was chosen for it."""

    plan: Plan
    way: str
    """The kind of placement."""
    others: tuple[str, ...]
    """What else was tried, and how it compares."""

    @property
    def cfg(self) -> PPOConfig:
        return self.plan.cfg


@dataclass(frozen=True)
class _Way:
    """A kind of placement to try."""

    name: str
    shards: int = 1
    together: bool = False
    """All roles on the same devices, in turns."""


@dataclass(frozen=True)
class _Found:
    plan: Plan
    problems: tuple[str, ...]
    """Why it does not fit."""

    @property
    def cost(self) -> tuple[int, float, float]:
        """What fits first, then the shorter step; of two as long, the one on the way to a shorter one."""
        if self.plan.time is None:
            return len(self.problems), 0.0, 0.0
        return len(self.problems), self.plan.time.seconds, sum(phase.seconds for phase in self.plan.time.phases)


def propose(cfg: PPOConfig, count: int, node: Nodes, *, tune: bool) -> Proposal:
    """A placement of `cfg` on `count` nodes. `tune`: choose generators' and learners' settings, and whether sampling
    and learning overlap, as well; an adapter only where nothing else fits. Whatever placement `cfg` has is left out.

    Raises ConfigError for models whose size is not known, PlacementError where nothing fits.
    """
    facts = facts_of(cfg)
    if unknown := next((key for key, size in facts.sizes.items() if size is None), None):
        raise ConfigError(
            f"{unknown}: its model is not a directory here, and no `shape` is given, so that its size is not known and "
            "nothing can be placed; give one of them"
        )
    tried = _tried(cfg, facts, count, node, tune)
    if tune and cfg.learner.lora is None and not any(found.problems == () for _, found in tried if found):
        # Without its adapter the policy is the reference, and the adapter says what learns.
        learner = _with(cfg.learner, lora=_LORA, parts=PartsConfig())
        cfg = _with(cfg, learner=learner, reference=None, reference_engine="server")
        facts = facts_of(cfg)
        tried = [*_tried(cfg, facts, count, node, tune), *tried]
    laid_out = [(way, found) for way, found in tried if found is not None]
    if not laid_out:
        roles = ", ".join(role for role in ON_DEVICES if role in cfg.roles)
        turns = "" if cfg.stream.in_turns else ", or set stream.max_staleness to 0, so that they can take turns"
        raise PlacementError(f"{count * node.gpus} GPUs are too few for {roles}; use more{turns}")
    chosen, best = min(laid_out, key=lambda pair: pair[1].cost)
    if best.problems and tune:
        raise PlacementError(
            f"no placement fits {count} × {node.gpus} {node.device.name}; of the nearest one: "
            f"{'; '.join(best.problems[:_SHOWN])}. Use more or larger GPUs, or a smaller model"
        )
    return Proposal(_checked(best.plan, node, facts), chosen.name, tuple(_compared(chosen, tried)))


def _tried(cfg: PPOConfig, facts: Facts, count: int, node: Nodes, tune: bool) -> list[tuple[_Way, _Found | None]]:
    return [(way, _Search(cfg, facts, count, node, tune, way).best()) for way in _ways(cfg, node, tune)]


def _checked(plan: Plan, node: Nodes, facts: Facts) -> Plan:
    """The same of a configuration that was checked as one from a file is."""
    kind = type(plan.cfg)
    try:
        cfg = kind.model_validate(plan.cfg.model_dump(mode="json"))
    except ValidationError as error:
        said = "; ".join(problem(detail, kind) for detail in error.errors(include_url=False))
        raise ConfigError(f"what was chosen does not go with the rest of the job: {said}") from error
    return plan_ppo(cfg, node, facts)


def _compared(chosen: _Way, tried: Sequence[tuple[_Way, _Found | None]]) -> Iterator[str]:
    for way, found in tried:
        if way is chosen:
            continue
        if found is None:
            yield f"{way.name}: cannot be laid out"
        elif found.problems:
            yield f"{way.name}: does not fit: {found.problems[0]}"
        elif found.plan.time is not None:
            yield f"{way.name}: {found.plan.time.seconds:.0f} s a step"


def _ways(cfg: PPOConfig, node: Nodes, tune: bool) -> Iterator[_Way]:
    prefix = "" if cfg.learner.lora is None else "an adapter (LoRA), "
    for each in (s for s in SHARDS if s <= node.gpus) if tune else (cfg.generator.tensor_parallel_size,):
        yield _Way(f"{prefix}GPUs of their own, {each} to a generator", each)
    can_share = cfg.algorithm.old_logprobs != "sampler" and cfg.weights.transport != "nccl"
    if can_share and (tune or (cfg.generator.tensor_parallel_size == 1 and cfg.stream.in_turns)):
        yield _Way(f"{prefix}all roles on the same GPUs in turns", together=True)


def _with(section: Any, **changed: Any) -> Any:
    """A copy, not checked again."""
    return section.model_copy(update=changed)


@dataclass(frozen=True)
class _Search:
    """The best placement of one kind."""

    cfg: PPOConfig
    facts: Facts
    count: int
    node: Nodes
    tune: bool
    way: _Way
    chosen: dict[tuple[str, int], list[tuple[int, bool, int]]] = field(default_factory=dict)
    """Learner role and its ranks → the settings with which it was found to fit; whatever the others have."""

    @property
    def roles(self) -> list[str]:
        return [role for role in ON_DEVICES if role in self.cfg.roles]

    def best(self) -> _Found | None:
        """None where there is no room for one of each."""
        total = self.count * self.node.gpus
        if self.way.together:
            ranks = min(total, self.cfg.algorithm.update_size)
            return self.judge(dict.fromkeys(self.roles, ranks))
        units = {role: self.way.shards if role == "generator" else 1 for role in self.roles}
        counts = _spread(units, total)
        if counts is None:
            return None
        first = self.judge(counts)
        if first is not None and any(w.startswith("generator: ") for w in first.problems):
            return first  # whatever the number of generators
        return self.climb(units, counts, first)

    def climb(self, units: Mapping[str, int], counts: dict[str, int], best: _Found | None) -> _Found | None:
        """From `counts` on, of which `best` is found, move GPUs from role to role while that makes it better."""
        largest = 2 ** int(math.log2(max(1, self.count * self.node.gpus // 4)))
        while largest:
            moved = False
            for giver, taker in permutations(units, 2):
                size = math.lcm(largest, units[giver], units[taker])
                changed = counts | {
                    giver: counts[giver] - size // units[giver],
                    taker: counts[taker] + size // units[taker],
                }
                found = self.judge(changed) if changed[giver] >= 1 else None
                if found is not None and (best is None or found.cost < best.cost):
                    best, counts, moved = found, changed, True
            largest = largest if moved else largest // 2
        return best

    def judge(self, counts: Mapping[str, int]) -> _Found | None:
        """What these counts of actors come to; None where they cannot be."""
        a = self.cfg.algorithm
        if max(counts.get(role, 0) for role in LEARNERS) > a.update_size or counts["generator"] > a.prompts_per_step:
            return None
        cfg = _with(self.cfg, placement=self.placement(counts))
        try:
            plan = self.settled(cfg) if self.tune else plan_ppo(cfg, self.node, self.facts)
        except (ConfigError, PlacementError):
            return None
        if len(plan.nodes) > self.count:
            return None
        return _Found(plan, tuple(warning for warning in plan.warnings if "wait for each other" not in warning))

    def placement(self, counts: Mapping[str, int]) -> Placement:
        """Of so many actors, with the processors of their nodes divided among them."""
        node, together = self.node, self.way.together
        each = _cpus(node.cpus * _FOR_GPUS / node.gpus / (len(self.roles) if together else 1), _MOST_CPUS)
        kinds: dict[str, type[Resources]] = {"generator": GeneratorPlacement, "policy": LearnerPlacement}
        kinds |= {"critic": LearnerPlacement}
        placed: dict[str, Any] = {}
        for role, actors in counts.items():
            gpus = self.way.shards if role == "generator" else 1
            replicas = Replicas(min=actors, max=actors) if role == "generator" else actors
            kind = kinds.get(role, RolePlacement)
            placed[role] = kind.model_validate({"replicas": replicas, "num_gpus": gpus, "num_cpus": each * gpus})
        encoders = [role for role in ("encoder", "eval_encoder") if role in self.cfg.roles]
        own = _cpus(node.cpus * _FOR_ENCODERS / len(encoders), _MOST_ENCODER_CPUS)
        placed |= {role: RolePlacement(replicas=self.count, num_cpus=own) for role in encoders}
        if "functions" in self.cfg.roles:
            placed["functions"] = Resources(num_cpus=_cpus(node.cpus * _FOR_FUNCTIONS, _MOST_FUNCTION_CPUS))
        if together:
            placed["colocate"] = (tuple(counts),)
        return Placement(**placed)

    def settled(self, cfg: PPOConfig) -> Plan:
        """With settings of generators and learners that fit, as far as there are any."""
        in_turns = self.way.together or cfg.stream.deterministic
        staleness = 0 if in_turns else max(1, cfg.stream.max_staleness)
        in_flight = "finish" if staleness and cfg.learner.sent_adapter is not None else cfg.stream.in_flight
        mismatch = cfg.algorithm.mismatch
        if mismatch.correction == "none":
            mismatch = _with(mismatch, correction="tis")
        cfg = _with(
            cfg,
            stream=_with(cfg.stream, max_staleness=staleness, in_flight=in_flight if staleness else "keep"),
            algorithm=_with(cfg.algorithm, mismatch=mismatch),
            generator=self.generator(cfg),
            score_micro_batch_tokens=max(cfg.score_micro_batch_tokens, _longest(cfg)),
            **{
                section: _with(own, engine=_with(own.engine, **_engine(2, False, _longest(cfg))))
                for section in LEARNERS.values()
                if (own := getattr(cfg, section))
            },
        )
        if "reference" in cfg.roles and not self.way.together:
            size = sum(self.facts.known[key].parameters for key in cfg.served)
            large = 2 * size > 0.7 * self.node.device.memory_gb * GIB
            cfg = _with(cfg, reference_engine="zero3" if large and cfg.distillation is None else "server")
        cfg, plan = self.learner(cfg, "policy", LEARNERS["policy"])
        return self.learner(cfg, "critic", LEARNERS["critic"])[1] if "critic" in cfg.roles else plan

    def generator(self, cfg: PPOConfig) -> Any:
        """As many sequences at a time as the cache holds, in waves of the same size."""
        a, size = cfg.algorithm, self.facts.known["policy"]
        changed = {"tensor_parallel_size": self.way.shards, "gpu_memory_utilization": 0.85, "enforce_eager": False}
        generator = _with(cfg.generator, **changed, max_num_seqs=_MOST_SEQUENCES)
        gpu = self.node.device.memory_gb * GIB
        cache = generator_bytes(size, cfg.policy.compute_dtype, generator, gpu)["kv_cache"]
        held = kv_sequences(size, cfg.policy.compute_dtype, generator, cache, cached_tokens(cfg))
        each = math.ceil(a.prompts_per_step * a.n_samples_per_prompt / cfg.placement.generator.actors)
        waves = math.ceil(each / max(1, min(held, _MOST_SEQUENCES)))
        return _with(generator, max_num_seqs=math.ceil(each / waves))

    def learner(self, cfg: PPOConfig, role: str, section: str) -> tuple[PPOConfig, Plan]:
        """The first settings with which the role fits, else the last."""
        own, longest = getattr(cfg, section), _longest(cfg)
        key = role, getattr(cfg.placement, role).replicas
        passes = [tokens for tokens in _PASSES if tokens > longest] + [longest]
        tries = self.chosen.get(key) or [(*stage, tokens) for stage in _STAGES for tokens in passes]
        changed, plan = cfg, plan_ppo(cfg, self.node, self.facts)
        for settings in tries:
            changed = _with(cfg, **{section: _with(own, engine=_with(own.engine, **_engine(*settings)))})
            plan = plan_ppo(changed, self.node, self.facts)
            memory = next(m for m in plan.memory if m.role == role)
            fits = memory.limit is None or memory.total <= memory.limit
            if fits and not any(device.too_full for device in plan.shared):
                self.chosen[key] = [settings]
                break
        return changed, plan


def _engine(stage: int, offload: bool, tokens: int) -> dict[str, Any]:
    own = {"zero_stage": stage, "offload_optimizer": offload, "micro_batch_tokens": tokens}
    return own | {"gradient_checkpointing": True}


def _longest(cfg: PPOConfig) -> int:
    return cfg.data.most_prompt_tokens + cfg.sampling.max_response_tokens


def _spread(units: Mapping[str, int], total: int) -> dict[str, int] | None:
    """Actors of each role, about as many GPUs to each; None where there are too few for one of each."""
    if sum(units.values()) > total:
        return None
    counts = {role: max(1, total // len(units) // unit) for role, unit in units.items()}
    while (over := sum(counts[role] * units[role] for role in units) - total) > 0:
        role = max((r for r in units if counts[r] > 1), key=lambda r: counts[r] * units[r])
        counts[role] -= max(1, min(counts[role] - 1, over // units[role]))
    last = "policy"
    counts[last] += total - sum(counts[role] * units[role] for role in units)
    return counts


def _cpus(share: float, most: float) -> float:
    """Whole ones, where there is one."""
    share = min(share, most)
    return float(math.floor(share)) if share >= 1 else math.floor(100 * share) / 100
