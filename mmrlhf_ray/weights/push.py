"""A push of weights: what is sent, how it travels, and the proof that the other end holds the same."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import ray
from torch import Tensor

from mmrlhf_ray.errors import RunError
from mmrlhf_ray.models import ModelAdapter, checkpoint_tensors
from mmrlhf_ray.runtime.waits import deadline_get
from mmrlhf_ray.weights.buckets import checksum, pack
from mmrlhf_ray.weights.layout import Pushed, TensorLayout, combine

_IN_FLIGHT = 2
"""Buckets on the way at once: the next one is gathered while the last one is loaded."""
_SHOWN = 5


@dataclass(frozen=True)
class Sent:
    """The weights that a learner group pushed, as its first rank saw them; the other ranks report nothing sent."""

    checksum: str
    names: frozenset[str]
    nbytes: int


class Transport(Protocol):
    """Carries buckets from a learner's first rank to every generator."""

    def carry(self, layout: list[TensorLayout], payload: np.ndarray) -> None:
        """Send one bucket; may return before it has arrived."""
        ...

    def finish(self) -> None:
        """Wait until every bucket has arrived. Raises whatever a receiver raised."""
        ...


@dataclass
class ObjectStore:
    """Every bucket is put into Ray's object store once, and every receiver fetches it from there."""

    receive: Callable[[list[TensorLayout], "ray.ObjectRef[np.ndarray]"], Sequence["ray.ObjectRef[None]"]]
    """Has all receivers take a bucket; nothing blocks."""
    deadline_s: float
    _on_the_way: list[Sequence["ray.ObjectRef[None]"]] = field(default_factory=list)

    def carry(self, layout: list[TensorLayout], payload: np.ndarray) -> None:
        self._on_the_way.append(self.receive(layout, ray.put(payload)))
        if len(self._on_the_way) == _IN_FLIGHT:
            self._arrived()

    def finish(self) -> None:
        while self._on_the_way:
            self._arrived()

    def _arrived(self) -> None:
        deadline_get(self._on_the_way.pop(0), self.deadline_s, "weight push")


def send(groups: Iterable[Sequence[tuple[str, Tensor]]], adapter: ModelAdapter, transport: Transport) -> Sent:
    """Send groups of (parameter name, tensor on the host) in checkpoint format.

    Every rank iterates over its groups to the end, since gathering is a collective; those of all ranks but the first
    are empty and send nothing.
    """
    sums: dict[str, int] = {}
    nbytes, groups = 0, iter(groups)
    try:
        for group in filter(None, groups):
            tensors = [item for name, tensor in group for item in checkpoint_tensors(adapter, name, tensor)]
            transport.carry(*pack(tensors))
            sums |= {name: checksum(tensor) for name, tensor in tensors}  # while it is on its way
            nbytes += sum(tensor.nbytes for _, tensor in tensors)
        transport.finish()
    finally:
        for _ in groups:  # where it broke off: the other ranks wait in the gathers that are left
            pass
    return Sent(combine(sums), frozenset(sums), nbytes)


def check_pushed(sent: Sent, pushed: Pushed, who: str) -> None:
    """Raise RunError where `who` holds other names or other bytes than were sent."""
    if pushed.names != sent.names:
        raise RunError(f"weight push: {who} differs in names: {sorted(pushed.names ^ sent.names)[:_SHOWN]} …")
    if pushed.checksum != sent.checksum:
        raise RunError(f"weight push: {who} holds checksum {pushed.checksum}, the learner sent {sent.checksum}")
