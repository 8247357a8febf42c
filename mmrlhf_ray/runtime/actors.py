"""Groups of like actors in one placement group."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from mmrlhf_ray.config.base import DeadlineConfig, Resources
from mmrlhf_ray.errors import PlacementError
from mmrlhf_ray.runtime.waits import deadline_get


@dataclass(frozen=True)
class Seat:
    """One actor's place."""

    name: str
    """The actor's name on the dashboard, e.g. policy-1."""
    resources: Resources


def reserve(seats: Sequence[Seat], strategy: str, deadlines: DeadlineConfig) -> PlacementGroup:
    """Reserve all seats at once. Raises PlacementError with need and have when they are not free in time."""
    bundles = [{k: v for k, v in _amounts(seat.resources).items() if v} or {"CPU": 0.001} for seat in seats]
    group = placement_group(bundles, strategy=strategy)
    if group.wait(deadlines.placement_s):
        return group
    remove_placement_group(group)
    need = {k: sum(_amounts(s.resources)[k] for s in seats) for k in ("CPU", "GPU")}
    free = {k: ray.available_resources().get(k, 0.0) for k in ("CPU", "GPU")}
    raise PlacementError(
        f"placement: {len(seats)} actors need {need['CPU']:g} CPUs and {need['GPU']:g} GPUs ({strategy}); free are "
        f"{free['CPU']:g} CPUs and {free['GPU']:g} GPUs; lower placement.*.num_cpus, .num_gpus or .replicas, "
        "or add nodes"
    )


def _amounts(resources: Resources) -> dict[str, float]:
    return {"CPU": resources.num_cpus, "GPU": resources.num_gpus}


def spawn(kind: type, seat: Seat, group: PlacementGroup, bundle: int, **arguments: Any) -> Any:
    """Start an actor of class `kind` on its seat. Its constructor runs in the background."""
    actor: Any = ray.remote(kind).options(
        name=seat.name,
        num_cpus=seat.resources.num_cpus,
        num_gpus=seat.resources.num_gpus,
        max_restarts=0,
        scheduling_strategy=PlacementGroupSchedulingStrategy(
            placement_group=group, placement_group_bundle_index=bundle
        ),
    )
    return actor.remote(**arguments)


@dataclass(frozen=True)
class ActorGroup:
    """Like actors that are called together."""

    names: tuple[str, ...]
    handles: tuple[Any, ...]

    def __len__(self) -> int:
        return len(self.handles)

    def call(self, method: str, *arguments: Any) -> list[ray.ObjectRef]:
        """`method` on every actor with the same arguments; nothing blocks."""
        return [getattr(handle, method).remote(*arguments) for handle in self.handles]

    def wait(self, refs: Sequence[ray.ObjectRef], seconds: float, what: str) -> list[Any]:
        """Answers of all actors, or an error that names who failed or did not answer."""
        return deadline_get(list(refs), seconds, what, list(self.names))
