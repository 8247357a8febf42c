"""Actors that are the ranks of one process group: how they meet, and how the driver has them meet."""

import socket
from collections.abc import Sequence
from typing import Protocol, TypeVar

import ray
import torch

from mmrlhf_ray.runtime.actors import WATCH_LANE, ActorGroup
from mmrlhf_ray.runtime.network import meet_over


class Meeting:
    """One rank's way into its group."""

    def __init__(self, rank: int, world_size: int, device: str):
        self.rank, self.world_size, self.device = rank, world_size, torch.device(device)
        self._listener: socket.socket | None = None
        """Of the first rank."""

    def hold_port(self) -> tuple[str, int]:
        """This node's address and a port of it that is held from now on, where the other ranks find the first."""
        address = ray.util.get_node_ip_address()
        self._listener = socket.create_server((address, 0))
        return address, self._listener.getsockname()[1]

    def enter(self, address: str, port: int) -> None:
        """Meet the others there. A collective."""
        from mmrlhf_ray.training.engine import init_process_group  # DeepSpeed, which no driver needs

        meet_over(ray.util.get_node_ip_address())
        init_process_group(self.rank, self.world_size, address, port, self.device, self._listener)


class Rank(Protocol):
    """An actor that is one rank. Its other methods are collectives: they must be called on all ranks of the group."""

    @ray.method
    def rendezvous(self) -> tuple[str, int]:
        """As Meeting.hold_port()."""

    @ray.method
    def join(self, address: str, port: int) -> None:
        """Join the group and load the model."""

    @ray.method(concurrency_group=WATCH_LANE)
    def joined(self) -> bool:
        """Whether it has joined its group since it was started; answered whatever else it is at work on."""


R = TypeVar("R", bound=Rank)


def start_joining(group: ActorGroup[R], seconds: float) -> list["ray.ObjectRef[None]"]:
    """Tell all ranks where the first one is; they meet and load the model in the background: see wait_joined()."""
    first = ActorGroup(group.names[:1], group.handles[:1])
    ((address, port),) = first.wait([first.handles[0].rendezvous.remote()], seconds, "rendezvous")
    return [handle.join.remote(address, port) for handle in group.handles]


def wait_joined(group: ActorGroup[R], refs: Sequence["ray.ObjectRef[None]"], seconds: float, what: str) -> None:
    """Until all ranks have met. Raises what loading raised, DeadlineExceeded."""
    group.wait(refs, seconds, f"joining the {what} group")
