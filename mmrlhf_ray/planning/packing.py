"""Nodes that hold a job's actors."""

from collections.abc import Mapping
from dataclasses import dataclass, field

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
    """Nodes that hold one bundle per replica: largest first, each to the first node with room. Raises
    PlacementError."""
    gpus, cpus = kind.gpus, kind.cpus
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
