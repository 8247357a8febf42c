"""The actors of a job: their seats are reserved together, and everything is given back at the end of the block.

    with crew(cfg, cfg.roles) as own:
        scorers = start_scorers(own, cfg, models)
        scorers.wait_ready(cfg.deadlines.start_s)

Each crew has its own namespace, so that several can live in one Ray session with the same names.
"""

import secrets
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar, cast

import pyarrow as pa
import ray
from ray.actor import ActorHandle, ActorProxy
from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group

from mmrlhf_ray.config import EvaluateConfig, ModelConfig, PPOConfig, ProbeRewardConfig, RunConfig
from mmrlhf_ray.config.distillation import DistillationConfig
from mmrlhf_ray.config.parts import LoRAConfig
from mmrlhf_ray.config.placement import Resources
from mmrlhf_ray.config.weights import WeightTransport
from mmrlhf_ray.data.batches.batching import PassBudget
from mmrlhf_ray.data.records.readers import Records
from mmrlhf_ray.environments.check import tool_schemas
from mmrlhf_ray.errors import RunFailed
from mmrlhf_ray.rewards.batch import extras_columns
from mmrlhf_ray.rewards.components import shows_media
from mmrlhf_ray.runtime.actors import (
    WATCH_LANE,
    ActorGroup,
    Restarts,
    Seat,
    reserve,
    reserve_when_possible,
    spawn,
)
from mmrlhf_ray.runtime.readiness import Readiness
from mmrlhf_ray.runtime.session import SessionInfo
from mmrlhf_ray.training.extension import COLLECTIVES, CPU_ADAM, build_here
from mmrlhf_ray.workers.roles.encoder import PromptEncoder
from mmrlhf_ray.workers.roles.functions import Functions, RewardFunctions
from mmrlhf_ray.workers.roles.generator import Generator, Generators
from mmrlhf_ray.workers.roles.prompts import Encoders
from mmrlhf_ray.workers.roles.ranks import Meeting
from mmrlhf_ray.workers.roles.reference import Reference, References
from mmrlhf_ray.workers.roles.reference_ranks import ReferenceRank, ReferenceRanks
from mmrlhf_ray.workers.roles.scorer import Scorer, Scorers
from mmrlhf_ray.workers.watch import Watch

A = TypeVar("A")
P = ParamSpec("P")
CrewConfig = PPOConfig | EvaluateConfig | ProbeRewardConfig
"""Jobs whose actors are placed by `placement`."""

_REPEATED = frozenset({"encoder", "eval_encoder", "scorer", "functions", "reference"})
"""Roles whose answers hang on nothing but the question. A generator must be given its weights before it is asked again,
a learner is changed by what it is asked, and a rank of the reference answers together with the others only."""
_REPEATS = 2
_GIVE_BACK_S = 30.0
_POLL_S = 0.05


@dataclass(frozen=True)
class Crew:
    """Reserved seats, and the actors that were started on them."""

    bundles: tuple[tuple[Seat, ...], ...]
    """Those of a bundle share a device."""
    group: PlacementGroup
    namespace: str
    watch: Watch | None = None
    """Over the actors; without, none is started again."""
    later: tuple[Seat, ...] = ()
    """Seats of actors that start when there is room for them."""
    _rooms: list[PlacementGroup] = field(default_factory=list)
    """Of actors on `later` seats."""
    _started: list[ActorProxy[Any]] = field(default_factory=list)
    _readiness: Readiness = field(default_factory=Readiness)

    def of(self, role: str) -> list[Seat]:
        """The seats of a role."""
        return [seat for seats in self.bundles for seat in seats if seat.role == role]

    def spawn(self, seat: Seat, kind: Callable[P, A], *args: P.args, **kwargs: P.kwargs) -> ActorProxy[A]:
        """Start an actor on its seat; on a `later` one, when there is room for it."""
        group, bundle = self.group, 0
        if seat in self.later:
            group = reserve_when_possible(seat)
            self._rooms.append(group)
        else:
            bundle = next(number for number, seats in enumerate(self.bundles) if seat in seats)
        restarts = Restarts()
        if self.watch is not None and self.watch.starts_again:
            restarts = Restarts(-1, _REPEATS if seat.role in _REPEATED and kind is not ReferenceRank else 0)
        handle = spawn(seat, group, bundle, self.namespace, restarts, kind, *args, **kwargs)
        self._started.append(handle)
        self._readiness.add(seat.name, _beat(handle))
        if self.watch is not None:
            self.watch.add(seat.name, handle, partial(_beat, handle))
        return handle

    def start(self, role: str, kind: Callable[P, A], *args: P.args, **kwargs: P.kwargs) -> ActorGroup[A]:
        """Start all actors of a role, each with the same arguments; those on `later` seats come last."""
        seats = [*self.of(role), *(seat for seat in self.later if seat.role == role)]
        handles = tuple(self.spawn(seat, kind, *args, **kwargs) for seat in seats)
        return ActorGroup(tuple(seat.name for seat in seats), handles)

    def end(self, group: ActorGroup[A]) -> None:
        """End a group's actors, so that their seats are free for others."""
        for handle in group.handles:
            _kill(handle)
            self._started.remove(handle)
        _wait(lambda: not set(group.names) & _named(self.namespace), f"ending {', '.join(group.names)}")

    def give_back(self) -> None:
        """End every actor and remove the placement group; returns when names and resources are free again."""
        self._readiness.close()
        for handle in self._started:
            _kill(handle)
        self._started.clear()
        groups = [self.group, *self._rooms]
        for group in groups:
            remove_placement_group(group)
        _wait(lambda: not _named(self.namespace), "ending the actors")
        for group in groups:
            _wait(partial(_removed, group), "removing a placement group")


@contextmanager
def crew(cfg: CrewConfig, roles: Collection[str], watch: Watch | None = None) -> Iterator[Crew]:
    """Reserve a seat for every actor of `roles` that is waited for. Raises PlacementError when they are not free in
    time."""
    bundles: dict[tuple[str, int], list[Seat]] = {}
    later = []
    for role, placed in cfg.roles.items():
        if role in roles:
            sharing = cfg.placement.sharing(role)
            own_seats = [Seat(role, f"{role}-{i}", placed, len(sharing)) for i in range(placed.most_actors)]
            for number, seat in enumerate(own_seats[: placed.actors]):
                bundles.setdefault((sharing[0], number), []).append(seat)
            later += own_seats[placed.actors :]
    reserved = tuple(tuple(seats) for seats in bundles.values())
    group = reserve(reserved, cfg.placement.strategy, cfg.deadlines)
    own = Crew(reserved, group, f"{cfg.name}-{secrets.token_hex(4)}", watch, tuple(later))
    try:
        yield own
    finally:
        own.give_back()


def _beat(handle: ActorProxy[Any]) -> "ray.ObjectRef[Any]":
    """Ask for a sign of life, which comes whatever the actor is at work on."""
    call: Any = cast(ActorHandle[Any], handle).__ray_call__
    return cast("ray.ObjectRef[Any]", call.options(concurrency_group=WATCH_LANE, max_task_retries=0).remote(_alive))


def _alive(actor: object) -> None:
    """That it answers is all."""


def _kill(handle: ActorProxy[Any]) -> None:
    ray.kill(cast(ActorHandle[Any], handle))


def _named(namespace: str) -> set[str]:
    """Names of the actors that are alive in a namespace."""
    listed = ray.util.list_named_actors(all_namespaces=True)
    return {actor["name"] for actor in listed if actor["namespace"] == namespace}


def _removed(group: PlacementGroup) -> bool:
    return bool(placement_group_table(group)["state"] == "REMOVED")


def _wait(done: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + _GIVE_BACK_S
    while not done():
        if time.monotonic() > until:
            raise RunFailed(f"{what} took more than {_GIVE_BACK_S:g} s; is the cluster's control service overloaded?")
        time.sleep(_POLL_S)


def device_of(resources: Resources, configured: str) -> str:
    """The torch device of an actor: the configured one, or for `auto` cuda where it reserves a GPU."""
    if configured == "auto":
        return "cuda" if resources.num_gpus else "cpu"
    return configured


def compile_here(cfg: RunConfig, session: SessionInfo) -> None:
    """Before learners start on this machine: compile what DeepSpeed needs, if it is not there."""
    if not session.started_here:
        return
    if any(device_of(cfg.roles[role], cfg.device) == "cpu" for role in _learning(cfg)):
        build_here(COLLECTIVES)
    if any(use.config.engine.offload_optimizer for use in cfg.trained.values()):
        build_here(CPU_ADAM)


def _learning(cfg: RunConfig) -> set[str]:
    """Roles that train with DeepSpeed."""
    return {"policy", "critic", "workers"} & set(cfg.roles) if cfg.trained else set()


def start_encoders(
    own: Crew,
    cfg: PPOConfig | EvaluateConfig,
    records: Records,
    run_dir: Path,
    role: Literal["encoder", "eval_encoder"] = "encoder",
    key: Literal["data", "eval_data"] = "data",
) -> Encoders:
    """Start the encoders of the prompts that `key` names. Encoders.check() must come before the rest."""
    group = own.start(
        role,
        PromptEncoder,
        model_path=cfg.policy.path,
        data=cfg.records[key].data,
        records=None,
        quarantine_to=run_dir,
        seed=cfg.seed,
        allowed=cfg.sampling.allow_tokens,
        most_media=cfg.generator.most_media,
        tools=() if cfg.environment is None else tool_schemas(cfg.environment),
    )
    return Encoders(group, cfg.deadlines.stage_s, ray.put(records))


def start_generators(
    own: Crew,
    cfg: PPOConfig | EvaluateConfig,
    policy: ModelConfig,
    lora: LoRAConfig | None = None,
    transport: WeightTransport = "object_store",
) -> Generators:
    """Start the generators with the weights of `policy`; pushes to them come by `transport`."""
    group = own.start(
        "generator",
        Generator,
        model=policy,
        config=cfg.generator,
        sampling=cfg.sampling,
        data=cfg.data,
        seed=cfg.seed,
        lora=lora,
        shares_device="generator" in cfg.placement.sharing_roles,
        transport=transport,
        environment=cfg.environment,
    )
    if own.watch is not None:
        for name, handle in zip(group.names, group.handles, strict=True):
            own.watch.add(name, handle, handle.alive.remote)  # the processes of sampler and engine must answer, too
    plays = cfg.environment is not None
    return Generators(group, cfg.deadlines.stage_s, cfg.placement.generator.actors, plays)


def start_scorers(
    own: Crew,
    cfg: CrewConfig,
    models: Sequence[ModelConfig],
    budget: PassBudget,
    quantiles: Sequence[float | None] = (),
) -> Scorers:
    """Start the scorers, each with all reward models; `quantiles` as of Scorer."""
    device = device_of(cfg.placement.scorer, cfg.device)
    group = own.start("scorer", Scorer, list(models), device, list(quantiles))
    return Scorers(group, budget, cfg.deadlines.stage_s)


def start_functions(own: Crew, cfg: CrewConfig, prompts: pa.Table) -> Functions:
    """Start the actor of computed rewards. `prompts`: PROMPT or DEMONSTRATION records that their columns come from, and
    of rows that bring none. An actor that may be started again is not given them: Ray forgets large arguments."""
    columns, known = extras_columns(prompts), prompts if own.watch is None else prompts.slice(0, 0)
    arguments = (cfg.function_rewards, known, cfg.policy.path, cfg.sampling.allow_tokens, columns)
    group = own.start("functions", RewardFunctions, *arguments)
    return Functions(group, cfg.deadlines.stage_s, any(map(shows_media, cfg.function_rewards)))


def start_references(
    own: Crew,
    cfg: CrewConfig,
    model: ModelConfig | None,
    temperature: float,
    budget: PassBudget,
    distillation: DistillationConfig | None = None,
) -> References:
    """Start the reference servers, which hold the teachers of `distillation` too."""
    device = device_of(cfg.placement.reference, cfg.device)
    group = own.start("reference", Reference, model, temperature, device, cfg.sampling.allow_tokens, distillation)
    return References(group, budget, cfg.deadlines.stage_s)


def start_reference_ranks(
    own: Crew, watch: Watch, cfg: PPOConfig, model: ModelConfig, budget: PassBudget
) -> ReferenceRanks:
    """Start the ranks that hold the reference together; they have yet to meet."""
    seats, sampling = own.of("reference"), cfg.sampling
    handles = []
    for rank, seat in enumerate(seats):
        meeting = Meeting(rank, len(seats), device_of(seat.resources, cfg.device))
        handles.append(own.spawn(seat, ReferenceRank, meeting, model, sampling.temperature, sampling.allow_tokens))
    group = ActorGroup(tuple(seat.name for seat in seats), tuple(handles))
    return ReferenceRanks(group, budget, cfg.deadlines.stage_s, watch, cfg.deadlines.start_s)
