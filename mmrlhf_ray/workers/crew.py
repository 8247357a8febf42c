"""Starting the actors of a run."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray.util.placement_group import PlacementGroup

from mmrlhf_ray.config.base import LearnerConfig, ModelConfig, Resources, RolePlacement
from mmrlhf_ray.config.data import DataConfig
from mmrlhf_ray.config.jobs import EvaluateConfig, GeneratorConfig, PPOConfig, SamplingConfig
from mmrlhf_ray.data.batches.batching import PassBudget
from mmrlhf_ray.data.records.places import with_absolute_paths
from mmrlhf_ray.data.records.readers import Records
from mmrlhf_ray.rewards.user import with_absolute_path
from mmrlhf_ray.runtime.actors import ActorGroup, Seat, reserve, spawn
from mmrlhf_ray.training.objectives import CriticObjective, Objective, PolicyObjective
from mmrlhf_ray.workers.fleet import Fleet, Generators, LearnerGroup, PromptServer, Servers, WeightSync
from mmrlhf_ray.workers.roles.encoder import PromptEncoder
from mmrlhf_ray.workers.roles.functions import RewardFunctions
from mmrlhf_ray.workers.roles.generator import Generator
from mmrlhf_ray.workers.roles.learner import Learner, LearnerSpec
from mmrlhf_ray.workers.roles.servers import Reference, Scorer


def device_of(resources: Resources, configured: str) -> str:
    """The torch device of an actor: what is configured, or for `auto` cuda where it reserves a GPU."""
    if configured == "auto":
        return "cuda" if resources.num_gpus else "cpu"
    return configured


def seats(role: str, placement: RolePlacement) -> list[Seat]:
    """One seat for each actor of a role."""
    return [Seat(f"{role}-{i}", placement) for i in range(placement.replicas)]


@dataclass(frozen=True)
class Reserved:
    """A placement group and who sits where."""

    group: PlacementGroup
    seats: tuple[Seat, ...]

    def spawn(self, kind: type, name: str, **arguments: Any) -> Any:
        """Start an actor on the seat of that name."""
        index = next(i for i, seat in enumerate(self.seats) if seat.name == name)
        return spawn(kind, self.seats[index], self.group, index, **arguments)

    def role(self, role: str, kind: type, **arguments: Any) -> ActorGroup:
        """Start all actors of a role, each with the same arguments."""
        names = tuple(s.name for s in self.seats if s.name.rpartition("-")[0] == role)
        return ActorGroup(names, tuple(self.spawn(kind, name, **arguments) for name in names))


def generator_arguments(
    model: ModelConfig,
    config: GeneratorConfig,
    sampling: SamplingConfig,
    data: DataConfig,
    seed: int,
    placement: Resources,
    device: str,
) -> dict[str, Any]:
    """Constructor arguments of a Generator."""
    return {
        "model": absolute(model),
        "config": config,
        "sampling": sampling,
        "max_prompt_tokens": data.max_prompt_tokens,
        "data": data,
        "seed": seed,
        "device": device_of(placement, device),
    }


def absolute(model: ModelConfig) -> ModelConfig:
    """Actors may run in another directory than the driver."""
    return model.model_copy(update={"path": os.path.abspath(model.path)})


def start_encoder(
    cfg: PPOConfig | EvaluateConfig, reserved: Reserved, records: Records, run_dir: Path
) -> tuple[PromptServer, int]:
    """Start the encoder on its seat and have it check every prompt; returns how many can be used. Raises DataError."""
    encoder = reserved.role(
        "encoder",
        PromptEncoder,
        model_path=absolute(cfg.policy).path,
        data=with_absolute_paths(cfg.data),
        records=records,
        quarantine_to=run_dir.resolve(),
        seed=cfg.seed,
    )
    (count,) = encoder.wait(encoder.call("check_prompts"), cfg.deadlines.start_s, "checking prompts")
    return PromptServer(encoder, cfg.deadlines.stage_s, cfg.data.streaming), count


def launch_ppo(cfg: PPOConfig, records: Records, run_dir: Path) -> Fleet:
    """Reserve all places, start the encoder (which checks every prompt), then everybody else; wait until all answer."""
    everyone = [seat for role in cfg.roles for seat in _seats(cfg, role)]
    reserved = Reserved(reserve(everyone, cfg.placement.strategy, cfg.deadlines), tuple(everyone))
    prompts, _ = start_encoder(cfg, reserved, records, run_dir)
    servers = _start_servers(cfg, reserved, records)
    learners = _start_learners(cfg, reserved)
    seconds = cfg.deadlines.start_s
    joining = {role: _join(ranks, seconds) for role, ranks in learners.items()}
    for role, group in servers.items():
        method = "heartbeat" if role == "generator" else "ready"
        group.wait(group.call(method), seconds, f"starting {role}")
    for role, refs in joining.items():
        learners[role].wait(refs, seconds, "joining the learner group")
    return _fleet(cfg, prompts, servers, learners)


def _seats(cfg: PPOConfig, role: str) -> list[Seat]:
    placed = getattr(cfg.placement, role)
    return seats(role, placed) if isinstance(placed, RolePlacement) else [Seat(f"{role}-0", placed)]


def _start_servers(cfg: PPOConfig, reserved: Reserved, records: Records) -> dict[str, ActorGroup]:
    """Everybody who only answers, by role."""
    place, policy = cfg.placement, absolute(cfg.policy)
    arguments: dict[str, tuple[type, dict[str, Any]]] = {
        "generator": (
            Generator,
            generator_arguments(policy, cfg.generator, cfg.sampling, cfg.data, cfg.seed, place.generator, cfg.device)
            | {"lora": cfg.learner.lora},
        ),
        "scorer": (
            Scorer,
            {
                "models": [absolute(reward.model) for reward in cfg.model_rewards],
                "device": device_of(place.scorer, cfg.device),
            },
        ),
        "functions": (
            RewardFunctions,
            {
                "components": [with_absolute_path(reward) for reward in cfg.function_rewards],
                "prompts": records.records,
                "model_path": policy.path,
            },
        ),
        "reference": (
            Reference,
            {
                "model": absolute(cfg.reference or cfg.policy),
                "temperature": cfg.sampling.temperature,
                "device": device_of(place.reference, cfg.device),
            },
        ),
    }
    return {role: reserved.role(role, kind, **given) for role, (kind, given) in arguments.items() if role in cfg.roles}


def _start_learners(cfg: PPOConfig, reserved: Reserved) -> dict[str, ActorGroup]:
    """The ranks of each learner group, by role."""
    policy = PolicyObjective(cfg.algorithm, cfg.sampling.temperature)
    ranks = {"policy": _start_ranks(reserved, "policy", absolute(cfg.policy), cfg.learner, policy, cfg)}
    if "critic" in cfg.roles:
        critic = CriticObjective(cfg.algorithm)
        ranks["critic"] = _start_ranks(reserved, "critic", absolute(cfg.critic_model), cfg.critic, critic, cfg)
    return ranks


def _start_ranks(
    reserved: Reserved, role: str, model: ModelConfig, learner: LearnerConfig, objective: Objective, cfg: PPOConfig
) -> ActorGroup:
    algorithm, placement = cfg.algorithm, getattr(cfg.placement, role)
    samples = algorithm.prompts_per_step * algorithm.n_samples_per_prompt
    names = [seat.name for seat in seats(role, placement)]
    handles = []
    for rank, name in enumerate(names):
        spec = LearnerSpec(
            model=model,
            learner=learner,
            optimizer_steps=cfg.steps * algorithm.ppo_epochs * (samples // algorithm.mini_batch_size),
            rank=rank,
            world_size=len(names),
            device=device_of(placement, cfg.device),
            seed=cfg.seed,
        )
        handles.append(reserved.spawn(Learner, name, spec=spec, objective=objective))
    return ActorGroup(tuple(names), tuple(handles))


def _join(ranks: ActorGroup, seconds: float) -> list[Any]:
    """Tell all ranks where the first one is; they load and meet in the background."""
    first = ActorGroup(ranks.names[:1], ranks.handles[:1])
    address, port = first.wait(first.call("rendezvous"), seconds, "rendezvous")[0]
    return ranks.call("join", address, port)


def _fleet(
    cfg: PPOConfig, prompts: PromptServer, servers: dict[str, ActorGroup], learners: dict[str, ActorGroup]
) -> Fleet:
    stage_s = cfg.deadlines.stage_s
    answering = PassBudget(cfg.score_micro_batch_tokens, cfg.learner.engine.max_padding_share)
    policy = LearnerGroup(learners["policy"], _budget(cfg.learner), stage_s)
    generators = Generators(servers["generator"], stage_s)
    if "reference" in servers:
        reference = Servers(servers["reference"], "logprobs", answering, stage_s)
    else:  # the policy without its adapter
        reference = Servers(learners["policy"], "reference_logprobs", policy.budget, stage_s)
    return Fleet(
        prompts=prompts,
        generators=generators,
        scorers=Servers(servers["scorer"], "score", answering, stage_s) if "scorer" in servers else None,
        model_rewards=cfg.model_rewards,
        functions=servers.get("functions"),
        reference=reference,
        policy=policy,
        critic=LearnerGroup(learners["critic"], _budget(cfg.critic), stage_s) if "critic" in learners else None,
        weight_sync=WeightSync(policy, generators, cfg.generator.bucket_mb << 20),
    )


def _budget(learner: LearnerConfig) -> PassBudget:
    return PassBudget(learner.engine.micro_batch_tokens, learner.engine.max_padding_share)
