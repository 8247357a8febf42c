"""Memory of devices that roles share and take turns on, and of the host, where those wait that are not at work."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from mmrlhf_ray.config import PPOConfig
from mmrlhf_ray.planning.memory import RoleMemory
from mmrlhf_ray.planning.sizes import GIB
from mmrlhf_ray.runtime.devices import AT_WORK, Phase

# What a process holds of a device although all its tensors have left. An assumption.
_CONTEXT = 0.5 * GIB


@dataclass(frozen=True)
class SharedDevice:
    """One of the devices of a group of `placement.colocate`; all are alike."""

    roles: tuple[str, ...]
    phases: Mapping[Phase, Mapping[str, float]]
    """Phase of a step → role → bytes that it has on the device."""
    waiting: Mapping[Phase, float]
    """Phase → bytes of host memory of those that have left."""
    moved: float
    """Bytes that go to the device or leave it in the course of a step."""
    limit: float | None
    """Bytes that all may take together; None = host memory, which is not judged."""

    def total(self, phase: Phase) -> float:
        """Of all roles."""
        return sum(self.phases[phase].values())

    @property
    def fullest(self) -> Phase:
        """The phase in which the device holds most."""
        return max(self.phases, key=self.total)

    @property
    def too_full(self) -> bool:
        """Whether it is then to hold more than it can."""
        return self.limit is not None and self.total(self.fullest) > self.limit


def shared_devices(cfg: PPOConfig, memory: Mapping[str, RoleMemory]) -> Iterator[SharedDevice]:
    """Of each group whose models are all known."""
    for group in cfg.placement.colocate:
        if not all(role in memory for role in group):
            continue
        own = [memory[role] for role in group]
        stays = {"reference"} if cfg.reference_engine == "zero3" else set()
        context = _CONTEXT if own[0].on_gpu else 0.0
        phases: dict[Phase, dict[str, float]] = {
            phase: {role.role: context + _there(role, phase, role.role in stays) for role in own} for phase in AT_WORK
        }
        waiting: dict[Phase, float] = {
            phase: sum(_kept(role) for role in own if role.role not in (*AT_WORK[phase], *stays)) for phase in AT_WORK
        }
        moved = sum(_changes(role.role) * _kept(role) for role in own if role.role not in stays)
        yield SharedDevice(group, phases, waiting, moved, own[0].limit)


def _there(role: RoleMemory, phase: Phase, stays: bool) -> float:
    """Bytes of a role's tensors on the device."""
    if role.role not in AT_WORK[phase]:
        return role.items["parameters"] if stays else 0.0
    if role.role == "generator":
        return role.items["parameters"] if phase == "push" else role.total
    if role.role in ("policy", "critic") and phase != "learn":
        return role.resident + (role.asked if phase == "judge" else 0.0)
    return role.total


def _kept(role: RoleMemory) -> float:
    """Bytes that a role takes with it when it leaves: an engine that sleeps keeps its weights."""
    return sum(role.items.get(name, 0.0) for name in ("parameters", "gradients", "optimizer"))


def _changes(role: str) -> int:
    """How often a role comes or goes in a step; after its last phase the first one follows."""
    there = [role in at_work for at_work in AT_WORK.values()]
    return sum(now != before for before, now in zip([there[-1], *there], there))
