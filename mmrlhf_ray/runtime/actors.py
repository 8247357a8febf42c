"""Actors on reserved seats: where each one sits, and groups of like actors that are called together.

Actor classes mark their methods with `ray.method`, so that `handle.generate.remote(…)` is checked by type: Ray's own
stubs know its arguments and its answer.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, ParamSpec, TypeVar, cast

import ray
from ray.actor import ActorClass, ActorProxy
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from mmrlhf_ray.config.base import DeadlineConfig
from mmrlhf_ray.config.placement import Resources
from mmrlhf_ray.errors import PlacementError
from mmrlhf_ray.runtime.waits import deadline_get

WATCH_LANE = "watch"
"""Concurrency group of actors that can be started again: what is asked in it is answered beside all other work."""

_SHARES = 10_000
"""Ray counts GPUs in such parts."""

A = TypeVar("A")
R = TypeVar("R")
P = ParamSpec("P")


@dataclass(frozen=True)
class Restarts:
    """What Ray does when an actor has died."""

    actors: int = 0
    """How often it starts the actor again; -1 = always."""
    calls: int = 0
    """How often it repeats a call that the actor died on."""


@dataclass(frozen=True)
class Seat:
    """One actor's place."""

    role: str
    name: str
    """The actor's name on the dashboard, e.g. policy-1."""
    resources: Resources
    sharing: int = 1
    """How many actors share its device."""

    @property
    def num_gpus(self) -> float:
        """Its part of the device."""
        return math.floor(_SHARES * self.resources.num_gpus / self.sharing) / _SHARES


def reserve(bundles: Sequence[Sequence[Seat]], strategy: str, deadlines: DeadlineConfig) -> PlacementGroup:
    """Reserve all seats at once; those of a bundle share a device. Raises PlacementError with need and have when they
    are not free in time."""
    seats = [seat for bundle in bundles for seat in bundle]
    group = placement_group([_bundle(bundle) for bundle in bundles], strategy=strategy)
    if group.wait(deadlines.placement_s):
        return group
    remove_placement_group(group)
    need = {k: sum(_bundle(bundle).get(k, 0.0) for bundle in bundles) for k in ("CPU", "GPU")}
    free = {k: ray.available_resources().get(k, 0.0) for k in ("CPU", "GPU")}
    raise PlacementError(
        f"placement: {len(seats)} actors need {need['CPU']:g} CPUs and {need['GPU']:g} GPUs ({strategy}); free are "
        f"{free['CPU']:g} CPUs and {free['GPU']:g} GPUs; lower placement.*.num_cpus, .num_gpus or .replicas, "
        "or add nodes"
    )


def reserve_when_possible(seat: Seat) -> PlacementGroup:
    """Have Ray reserve the seat as soon as it is free; nothing waits. Where there is an autoscaler, it is asked."""
    return placement_group([_bundle([seat])])


def _bundle(seats: Sequence[Seat]) -> dict[str, float]:
    amounts = [_amounts(seat.resources) for seat in seats]
    needed = {"CPU": sum(own["CPU"] for own in amounts), "GPU": max(own["GPU"] for own in amounts)}
    return {k: v for k, v in needed.items() if v} or {"CPU": 0.001}


def _amounts(resources: Resources) -> dict[str, float]:
    return {"CPU": resources.num_cpus, "GPU": resources.num_gpus}


def threads_env(resources: Resources) -> dict[str, Any]:
    """The runtime_env of a process that computes with as many threads as these resources say; empty where that is one,
    as sessions have it. Set before the process imports anything, it holds for its child processes as well."""
    threads = resources.computing_threads
    return {"env_vars": {"OMP_NUM_THREADS": str(threads)}} if threads > 1 else {}


def with_watch_lane(kind: type[A]) -> ActorClass[A]:
    """The class as Ray's, whose actors have a second thread for what is asked in WATCH_LANE."""
    lanes = cast(Callable[..., Callable[[type[A]], ActorClass[A]]], ray.remote)  # Ray's stubs don't know them
    return lanes(concurrency_groups={WATCH_LANE: 1})(kind)


def spawn(
    seat: Seat,
    group: PlacementGroup,
    bundle: int,
    namespace: str,
    restarts: Restarts,
    kind: Callable[P, A],
    *args: P.args,
    **kwargs: P.kwargs,
) -> ActorProxy[A]:
    """Start an actor of class `kind` on its seat. Its constructor runs in the background."""
    actor = with_watch_lane(cast(type[A], kind)).options(
        name=seat.name,
        namespace=namespace,
        num_cpus=seat.resources.num_cpus,
        num_gpus=seat.num_gpus,
        runtime_env=threads_env(seat.resources),
        max_restarts=restarts.actors,
        max_task_retries=restarts.calls,
        scheduling_strategy=PlacementGroupSchedulingStrategy(
            placement_group=group, placement_group_bundle_index=bundle
        ),
    )
    return actor.remote(*args, **kwargs)


@dataclass(frozen=True)
class ActorGroup(Generic[A]):
    """Like actors that are called together."""

    names: tuple[str, ...]
    handles: tuple[ActorProxy[A], ...]

    def __len__(self) -> int:
        return len(self.handles)

    def wait(self, refs: Sequence["ray.ObjectRef[R]"], seconds: float, what: str) -> list[R]:
        """Answers of all actors, one each, or an error that names who failed or did not answer."""
        return deadline_get(refs, seconds, what, self.names)
