"""Pushes over gloo: buckets in host memory, the next one on its way while the last is loaded."""

import socket
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributed import BroadcastOptions, ProcessGroup, Work
from vllm.distributed.utils import stateless_init_torch_distributed_process_group
from vllm.distributed.weight_transfer.base import ParamMeta

from mmrlhf_ray.weights.buckets import Buffers, place, size, views
from mmrlhf_ray.weights.group import GroupInfo, GroupTrainerEngine, GroupWorkerEngine, Load, Meeting, cut
from mmrlhf_ray.weights.layout import TensorLayout
from mmrlhf_ray.weights.object_store import GLOO

_IN_FLIGHT = 2
"""Buckets on the way at once."""


class GlooWire:
    """A Wire. Both ends cut what was told into the same buckets.

    Gloo closes its connections when no one holds the group, or anything under way in it, any more, and in no other way:
    an end that gives up must let go of both.
    """

    def __init__(self, info: GroupInfo, rank: int, listener: socket.socket | None = None):
        self._group: ProcessGroup | None = stateless_init_torch_distributed_process_group(
            info.address,
            info.port,
            rank,
            info.world_size,
            "gloo",
            listen_socket=listener,
            timeout=timedelta(seconds=info.meet_s),
        )
        self._bucket_bytes = info.bucket_bytes
        self._longest = timedelta(seconds=info.deadline_s)

    def send(self, metadata: Sequence[ParamMeta], tensors: Iterator[tuple[str, Tensor]]) -> None:
        buffers, on_the_way = Buffers(), deque[Work]()
        try:
            for layout in cut(metadata, self._bucket_bytes):
                buffer = buffers.take(size(layout))
                for item in layout:
                    place(item, next(tensors)[1], buffer)
                on_the_way.append(self._broadcast(buffer))
                if len(on_the_way) == _IN_FLIGHT:
                    on_the_way.popleft().wait()
            while on_the_way:
                on_the_way.popleft().wait()
        finally:
            on_the_way.clear()
        next(tensors, None)  # there is no more, and whoever gives them learns that they were all taken

    def receive(self, metadata: Sequence[ParamMeta], load: Load, device: torch.device) -> None:
        buffers, coming = Buffers(), deque[tuple[list[TensorLayout], Tensor, Work]]()
        try:
            for layout in cut(metadata, self._bucket_bytes):
                buffer = buffers.take(size(layout))
                coming.append((layout, buffer, self._broadcast(buffer)))
                if len(coming) == _IN_FLIGHT:
                    _take(coming, load)
            while coming:
                _take(coming, load)
        finally:
            coming.clear()

    def _broadcast(self, buffer: Tensor) -> Work:
        if self._group is None:
            raise RuntimeError("the group was given up")
        options = BroadcastOptions()
        options.rootRank = options.rootTensor = 0
        options.timeout = self._longest
        return self._group.broadcast([buffer], options)

    def leave(self) -> None:
        self._group = None


def _take(coming: deque[tuple[list[TensorLayout], Tensor, Work]], load: Load) -> None:
    layout, buffer = coming[0][:2]
    coming.popleft()[2].wait()
    load(list(views(layout, buffer)))


class GlooWorkerEngine(GroupWorkerEngine):
    """A worker's."""

    open_wire = GlooWire


@dataclass
class GlooMeeting(Meeting):
    backend: ClassVar[str] = GLOO


class GlooTrainerEngine(GroupTrainerEngine):
    """A learner's."""

    init_info_cls = GlooMeeting
    open_wire = GlooWire
