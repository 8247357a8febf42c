"""Roles that share devices and take turns on them: who has its tensors there in which phase of a step."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from mmrlhf_ray.errors import RunFailed
from mmrlhf_ray.runtime.devices import AT_WORK, Held, Phase

logger = logging.getLogger(__name__)


class Taking(Protocol):
    """A role whose actors can leave their devices and come back."""

    def leave(self) -> list[Held]:
        """Everything off the devices; of each actor, what is left there. Nothing happens to who has left."""
        ...

    def enter(self, phase: Phase) -> list[Held]:
        """What this phase needs on the devices; of each actor, what is there."""
        ...


@dataclass
class Ledger:
    """What is on each of the shared devices, as the actors say."""

    entries: dict[tuple[str, int], Held] = field(default_factory=dict)
    """Role and number of its actor, which is that of the seat → what it has there."""
    history: list[tuple[Phase, str, int]] = field(default_factory=list)
    """Each change: phase, role, bytes of all its actors."""

    def note(self, phase: Phase, role: str, held: Sequence[Held], seats: Sequence[str]) -> None:
        """Raise RunFailed where the roles of a seat have more on its device than it has. `seats`: roles that share."""
        self.history.append((phase, role, sum(own.nbytes for own in held)))
        for number, own in enumerate(held):
            self.entries[role, number] = own
            there = {name: self.entries[name, number].nbytes for name in seats if (name, number) in self.entries}
            if own.device_bytes is not None and sum(there.values()) > own.device_bytes:
                parts = ", ".join(f"{name} {nbytes / 2**30:.1f} GiB" for name, nbytes in there.items() if nbytes)
                raise RunFailed(
                    f"{phase}: the roles on device {number} of placement.colocate hold more than its "
                    f"{own.device_bytes / 2**30:.1f} GiB: {parts}; lower generator.gpu_memory_utilization or "
                    "micro_batch_tokens, or take a role out of placement.colocate"
                )


@dataclass
class Turns:
    """The roles of `placement.colocate`. All of them are on their devices at first."""

    groups: Sequence[Sequence[str]]
    roles: Mapping[str, Taking]
    """Of all groups."""
    ledger: Ledger = field(default_factory=Ledger)
    phase: Phase | None = None

    def begin(self, phase: Phase) -> None:
        """Have who is not at work in this phase leave, and who is enter. Raises RunFailed as Ledger.note(), and what a
        role raised."""
        if phase == self.phase:
            return
        self.phase = None  # until it is done, nobody knows
        for group in self.groups:
            at_work = [role for role in group if role in AT_WORK[phase]]
            for role in group:
                if role not in at_work:
                    self.ledger.note(phase, role, self.roles[role].leave(), group)
            for role in at_work:
                self.ledger.note(phase, role, self.roles[role].enter(phase), group)
        self.phase = phase
        logger.debug("phase %s", phase)

    def forget(self) -> None:
        """Some actors were started again, and are on their devices."""
        self.phase = None
