"""Nodes that hold a job's actors."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import repeat

from mmrlhf_ray.errors import PlacementError
from mmrlhf_ray.planning.devices import Nodes
from mmrlhf_ray.planning.placement import Reservation


@dataclass(frozen=True)
class NodeLoad:
    """One node and the bundles on it."""

    cpus: float
    gpus: float
    replicas: dict[str, int]
    host: Mapping[str, float] = field(default_factory=dict)
    """Bytes of host memory by what takes them."""


def pack(roles: tuple[Reservation, ...], strategy: str, kind: Nodes) -> tuple[NodeLoad, ...]:
    """Nodes that hold one bundle per replica, or per replica of roles that share devices: largest first, each to the
    first node with room. Raises PlacementError."""
    seats = tuple(_seats(roles))
    for seat in seats:
        for name, need, have in (("GPUs", seat.gpus, kind.gpus), ("CPUs", seat.cpus, kind.cpus)):
            if need > have:
                raise PlacementError(
                    f"{seat.key}: one {seat.said} needs {need:g} {name}, a node has {have:g}; "
                    f"an actor cannot span nodes"
                )
    spread = strategy == "STRICT_SPREAD"
    nodes: list[NodeLoad] = []
    for seat in sorted(seats, key=lambda s: (-s.gpus, -s.cpus)):
        found = None if spread else next((n for n in nodes if _has_room(n, seat, kind)), None)
        node = found or NodeLoad(0.0, 0.0, {})
        held = node.replicas | {role: node.replicas.get(role, 0) + 1 for role in seat.roles}
        grown = NodeLoad(node.cpus + seat.cpus, node.gpus + seat.gpus, held)
        if found is None:
            nodes.append(grown)
        else:
            nodes[nodes.index(found)] = grown
    if strategy == "STRICT_PACK" and len(nodes) > 1:
        raise PlacementError(
            f"placement.strategy=STRICT_PACK wants one node, the actors need {len(nodes)}; use PACK or fewer replicas"
        )
    return tuple(nodes)


@dataclass(frozen=True)
class _Seat:
    """A bundle: an actor, or one of each role that shares a device."""

    key: str
    roles: tuple[str, ...]
    cpus: float
    gpus: float

    @property
    def said(self) -> str:
        return self.roles[0] if len(self.roles) == 1 else f"seat of {', '.join(self.roles)}"


def _seats(roles: tuple[Reservation, ...]) -> Iterator[_Seat]:
    for role in roles:
        together = [other for other in roles if other.role in role.shares] or [role]
        if together[0] is role:
            cpus = sum(other.num_cpus for other in together)
            seat = _Seat(role.key, tuple(other.role for other in together), cpus, role.num_gpus)
            yield from repeat(seat, role.replicas)


def _has_room(node: NodeLoad, seat: _Seat, kind: Nodes) -> bool:
    return node.gpus + seat.gpus <= kind.gpus + 1e-6 and node.cpus + seat.cpus <= kind.cpus + 1e-6
