"""The roles of an online run as the driver sees them, and their life: `with launch(cfg, …) as fleet`.

The driver holds token-level tables; media, features and weights go from actor to actor by reference.
"""

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mmrlhf_ray.config import LearnerConfig, ModelConfig, PPOConfig
from mmrlhf_ray.data.batches.batching import PassBudget
from mmrlhf_ray.data.records.readers import Records
from mmrlhf_ray.errors import RoleFailed
from mmrlhf_ray.models import adapter_for, chosen_kernel, is_flash
from mmrlhf_ray.runtime.actors import ActorGroup
from mmrlhf_ray.runtime.devices import Phase
from mmrlhf_ray.training.objectives import CriticObjective, Objective, PolicyObjective
from mmrlhf_ray.weights.layout import InFlight
from mmrlhf_ray.workers.crew import (
    Crew,
    crew,
    device_of,
    start_encoders,
    start_functions,
    start_generators,
    start_reference_ranks,
    start_references,
    start_scorers,
)
from mmrlhf_ray.workers.roles.functions import Functions, Rewards
from mmrlhf_ray.workers.roles.generator import Generators
from mmrlhf_ray.workers.roles.learner import Learner, Learners, LearnerSpec, WithoutAdapter
from mmrlhf_ray.workers.roles.prompts import PromptServer
from mmrlhf_ray.workers.roles.reference import AsksReference, References
from mmrlhf_ray.workers.roles.reference_ranks import ReferenceRanks
from mmrlhf_ray.workers.roles.scorer import Scorers
from mmrlhf_ray.workers.turns import Taking, Turns
from mmrlhf_ray.workers.watch import Watch

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fleet:
    """All roles of an online run."""

    prompts: PromptServer
    generators: Generators
    rewards: Rewards
    reference: AsksReference | None
    """None where nothing uses `ref_logprobs`."""
    policy: Learners
    critic: Learners | None
    held_out: PromptServer | None
    """Prompts of `eval_data`; None where the policy is not evaluated while it learns."""
    bucket_bytes: int
    """Most bytes of weights in one bucket of a push."""
    watch: Watch
    start_s: float
    """Seconds within which an actor that is started again must be at work."""
    turns: Turns | None = None
    """Of roles that share devices."""
    teachers: References | None = None
    """The reference servers, where they hold teachers."""

    def begin(self, phase: Phase) -> None:
        """Before anybody is asked for what this phase of a step is about: roles that share devices take turns. Raises
        as Turns.begin()."""
        if self.turns is not None:
            self.turns.begin(phase)

    def push(self, policy_version: int, in_flight: InFlight = "finish") -> int:
        """Policy weights to all generators that are at work, proven by names and checksums; these serve from then on.
        Returns the bytes sent to each. in_flight: the fate of running responses, as in Sampler.start_weight_update().
        """
        names, required = self.generators.group.names, self.generators.count_required
        at_work = self.watch.at_work(names)
        if len(at_work) < required:
            at_work = self.watch.wait(names, self.start_s, required)
        self.begin("push")
        self._serve(at_work)
        return self.policy.push(self.generators.serving, policy_version, self.bucket_bytes, in_flight)

    def _serve(self, names: Collection[str]) -> None:
        before = self.generators.serving.group.names
        self.generators.serve(names)
        for name in sorted({*names} ^ {*before}):
            logger.warning("%s %s", name, "serves from now on" if name in names else "no longer serves")

    def revive(self, error: RoleFailed, policy_version: int) -> None:
        """After `error`, which a generator's death may be behind: wait until as many generators answer as there must
        be, and give those that were started again, or join, the policy's weights. Raises `error` where learners are
        gone, and as Watch.wait()."""
        if self.lost_learners():
            raise error
        self._forget_turns()
        generators, before = self.generators, self.generators.serving.group.names
        self._serve(self.watch.wait(generators.group.names, self.start_s, generators.count_required))
        outdated = generators.serving.outdated(before, self.start_s)
        if len(outdated.group):
            self.begin("push")
            self.policy.push(outdated, policy_version, self.bucket_bytes)

    def lost_learners(self) -> bool:
        """Whether a rank died, now or since its group joined. Raises as Watch.wait()."""
        self.watch.wait(self._ranks, self.start_s)
        return not all(group.joined(self.start_s) for group in self.learners.values())

    def rejoin(self) -> None:
        """Start all learners again: they have the weights that the run started from. Raises as launch()."""
        self.watch.start_again(self._ranks, self.start_s)
        joining = [(group, group.join(self.start_s)) for group in self.learners.values()]
        for group, refs in joining:
            group.wait_joined(refs, self.start_s)
        self._forget_turns()

    def _forget_turns(self) -> None:
        if self.turns is not None:
            self.turns.forget()

    @property
    def _ranks(self) -> list[str]:
        return [name for group in self.learners.values() for name in group.group.names]

    @property
    def learners(self) -> dict[str, Learners]:
        """Role → the learner groups there are."""
        return {"policy": self.policy} | ({"critic": self.critic} if self.critic is not None else {})


@contextmanager
def launch(cfg: PPOConfig, records: Mapping[str, Records], run_dir: Path) -> Iterator[Fleet]:
    """Reserve all seats and start everybody at once; wait until the encoders have checked the prompts and all answer.

    At the end of the block, however it comes, actors, placement group and names are given back. Raises DataError for
    prompts that cannot be used, PlacementError, and what a role raised while it started.
    """
    watch = Watch(cfg.recovery)
    with crew(cfg, cfg.roles, watch) as own, watch:
        encoders = [start_encoders(own, cfg, records["data"], run_dir)]
        if cfg.eval_data is not None:
            encoders.append(start_encoders(own, cfg, records["eval_data"], run_dir, "eval_encoder", "eval_data"))
        generators = None if "generator" in cfg.placement.sharing_roles else _generators(own, cfg)
        others = _others(own, watch, cfg, records["data"])
        prompts, *held_out = (own.check(cfg.deadlines.start_s) for own in encoders)
        others.wait(cfg.deadlines.start_s)
        if generators is None:  # an engine takes its part of a device where the others are not
            for role in cfg.placement.sharing("generator"):
                if role in others.sharing:
                    others.sharing[role].leave()
            generators = _generators(own, cfg)
        generators.wait_ready(cfg.deadlines.start_s)
        sharing: dict[str, Taking] = {"generator": generators, **others.sharing}
        turns = Turns(cfg.placement.colocate, sharing) if cfg.placement.colocate else None
        yield Fleet(
            prompts=prompts,
            generators=generators,
            rewards=Rewards(others.scorers, cfg.model_rewards, others.functions, cfg.environment_rewards),
            reference=_reference(cfg, others),
            teachers=others.reference if cfg.distillation and isinstance(others.reference, References) else None,
            policy=others.policy,
            critic=others.critic,
            held_out=held_out[0] if held_out else None,
            bucket_bytes=cfg.generator.bucket_mb << 20,
            watch=watch,
            start_s=cfg.deadlines.start_s,
            turns=turns,
        )


@dataclass(frozen=True)
class _Others:
    """Everybody but encoders and generators, on their way."""

    scorers: Scorers | None
    functions: Functions | None
    reference: References | ReferenceRanks | None
    policy: Learners
    critic: Learners | None

    @property
    def sharing(self) -> dict[str, Taking]:
        """Role → who can leave its devices."""
        there = {
            "scorer": self.scorers,
            "reference": self.reference,
            "policy": self.policy,
            "critic": self.critic,
        }
        return {role: group for role, group in there.items() if group is not None}

    def wait(self, seconds: float) -> None:
        """Until all answer."""
        roles = (self.scorers, self.functions, self.reference, self.policy, self.critic)
        groups = [role for role in roles if isinstance(role, Learners | ReferenceRanks)]
        joining = [(group, group.join(seconds)) for group in groups]
        for role in roles:
            if not (role is None or isinstance(role, Learners | ReferenceRanks)):
                role.wait_ready(seconds)
        for group, refs in joining:
            group.wait_joined(refs, seconds)


def _reference(cfg: PPOConfig, others: _Others) -> AsksReference | None:
    """Who gives `ref_logprobs`."""
    if "reference" in cfg.served:
        return others.reference
    return WithoutAdapter(others.policy) if cfg.needs_reference else None


def _generators(own: Crew, cfg: PPOConfig) -> Generators:
    """Start them; nothing waits."""
    return start_generators(own, cfg, cfg.policy, cfg.learner.sent_adapter, cfg.transport)


def _others(own: Crew, watch: Watch, cfg: PPOConfig, records: Records) -> _Others:
    """Start them; nothing waits."""
    answering = cfg.score_micro_batch_tokens
    models, quantiles = [r.model for r in cfg.model_rewards], [r.quantile for r in cfg.model_rewards]
    critic = None
    if cfg.algorithm.has_critic:
        critic = _start_learners(own, cfg, "critic", cfg.critic_model, cfg.critic, CriticObjective(cfg.algorithm))
    policy_objective = PolicyObjective(cfg.algorithm, cfg.sampling.temperature, cfg.distillation)
    return _Others(
        start_scorers(own, cfg, models, _budget(cfg.learner, models, answering), quantiles) if models else None,
        start_functions(own, cfg, records.records) if cfg.function_rewards else None,
        _start_reference(own, watch, cfg) if "reference" in cfg.roles else None,
        _start_learners(own, cfg, "policy", cfg.policy, cfg.learner, policy_objective),
        critic,
    )


def _start_reference(own: Crew, watch: Watch, cfg: PPOConfig) -> References | ReferenceRanks:
    budget = _budget(cfg.learner, list(cfg.served.values()), cfg.score_micro_batch_tokens)
    if cfg.reference_engine == "zero3":
        return start_reference_ranks(own, watch, cfg, cfg.served["reference"], budget)
    model = cfg.served.get("reference")
    return start_references(own, cfg, model, cfg.sampling.temperature, budget, cfg.distillation)


def _start_learners(
    own: Crew, cfg: PPOConfig, role: str, model: ModelConfig, learner: LearnerConfig, objective: Objective
) -> Learners:
    """Start the ranks of a learner group."""
    seats = own.of(role)
    handles = []
    for rank, seat in enumerate(seats):
        spec = LearnerSpec(
            model=model,
            learner=learner,
            optimizer_steps=cfg.optimizer_steps(role),
            rank=rank,
            world_size=len(seats),
            device=device_of(seat.resources, cfg.device),
            seed=cfg.seed,
            allowed=cfg.sampling.allow_tokens,
            transport=cfg.transport,
        )
        handles.append(own.spawn(seat, Learner, spec, objective))
    group = ActorGroup(tuple(seat.name for seat in seats), tuple(handles))
    kernel = chosen_kernel(learner.engine.attention, model.compute_dtype, device_of(seats[0].resources, cfg.device))
    spread = learner.engine.sequence_parallel
    budget = _budget(learner, [model], packed=is_flash(kernel)).over(spread)
    return Learners(group, budget, cfg.deadlines.stage_s, spread)


def _budget(
    learner: LearnerConfig, models: Sequence[ModelConfig], tokens: int | None = None, *, packed: bool = False
) -> PassBudget:
    return PassBudget.of(learner.engine, [adapter_for(Path(model.path)) for model in models], tokens, packed=packed)
