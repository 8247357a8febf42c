"""Pushes over NCCL. Buckets, streams and broadcasts are vLLM's own; ours are the meeting, the deadlines, and the end of
a push that is broken off: NCCL itself waits on for who is gone."""

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event, Thread
from typing import ClassVar

import torch
from torch import Tensor
from vllm.distributed.device_communicators.pynccl import PyNcclCommunicator
from vllm.distributed.utils import StatelessProcessGroup
from vllm.distributed.weight_transfer.base import ParamMeta
from vllm.distributed.weight_transfer.packed_tensor import (
    packed_nccl_broadcast_consumer,
    packed_nccl_broadcast_producer,
)
from vllm.utils.nccl import unpinned_nccl_env

from mmrlhf_ray.weights.group import GroupInfo, GroupTrainerEngine, GroupWorkerEngine, Load, Meeting
from mmrlhf_ray.weights.object_store import NCCL

_LOOK_S = 1.0
"""Seconds between two looks for the learner's first rank, during a push."""


class NCCLWire:
    """A Wire. With the communicator comes a store, in the learner's first rank: when that is gone, so is the store."""

    def __init__(self, info: GroupInfo, rank: int, listener: socket.socket | None = None):
        self._store: StatelessProcessGroup | None = StatelessProcessGroup.create(
            info.address, info.port, rank, info.world_size, store_timeout=int(info.meet_s) + 1, listen_socket=listener
        )
        with unpinned_nccl_env():
            self._communicator = PyNcclCommunicator(self._store, device=torch.accelerator.current_device_index())
        self._bucket_bytes, self._deadline_s = info.bucket_bytes, info.deadline_s
        self._check()

    def send(self, metadata: Sequence[ParamMeta], tensors: Iterator[tuple[str, Tensor]]) -> None:
        packed_nccl_broadcast_producer(
            tensors, self._communicator, src=0, post_iter_func=_tensor, buffer_size_bytes=self._bucket_bytes
        )
        self._check()

    def receive(self, metadata: Sequence[ParamMeta], load: Load, device: torch.device) -> None:
        with self._ended_in_time():
            packed_nccl_broadcast_consumer(
                ((m.name, (list(m.shape), m.dtype)) for m in metadata),
                self._communicator,
                src=0,
                post_unpack_func=load,
                buffer_size_bytes=self._bucket_bytes,
                device=device,
            )
        self._check()

    def _check(self) -> None:
        """Raise RuntimeError where the communicator is of no use: its broadcasts then do nothing, without a word."""
        if self._communicator.disabled:
            raise RuntimeError("NCCL cannot be used here, or the group was given up")

    @contextmanager
    def _ended_in_time(self) -> Iterator[None]:
        """leave() during the block where that takes longer than a push may, or the learner is gone."""
        over = Event()

        def look() -> None:
            waited = 0.0
            while not over.wait(_LOOK_S):
                waited += _LOOK_S
                if waited > self._deadline_s or self._learner_is_gone():
                    self.leave()

        Thread(target=look, daemon=True).start()
        try:
            yield
        finally:
            over.set()

    def _learner_is_gone(self) -> bool:
        try:
            return self._store is None or self._store.store.num_keys() < 0
        except RuntimeError:  # that is what the store raises
            return True

    def leave(self) -> None:
        self._communicator.destroy()  # aborts what is under way
        self._communicator.group = self._store = None


def _tensor(item: tuple[str, Tensor]) -> Tensor:
    return item[1]


class NCCLWorkerEngine(GroupWorkerEngine):
    """A worker's."""

    open_wire = NCCLWire


@dataclass
class NCCLMeeting(Meeting):
    backend: ClassVar[str] = NCCL


class NCCLTrainerEngine(GroupTrainerEngine):
    """A learner's."""

    init_info_cls = NCCLMeeting
    open_wire = NCCLWire
