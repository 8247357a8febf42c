"""Pushes within one host: the learner's first rank fills windows that the workers look into, in the host's memory or in
that of the GPU that they share. Nothing travels; only word of a window that is full, or that may be filled again."""

import pickle
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import chain
from typing import ClassVar, Protocol

import torch
from torch import Tensor
from torch.distributed import DistNetworkError, DistStoreError, Store
from torch.multiprocessing.reductions import rebuild_cuda_tensor, reduce_tensor
from vllm.distributed.utils import StatelessProcessGroup
from vllm.distributed.weight_transfer.base import ParamMeta

from mmrlhf_ray.errors import RunError
from mmrlhf_ray.weights.buckets import Buffers, place, size, views
from mmrlhf_ray.weights.group import GroupInfo, GroupTrainerEngine, GroupWorkerEngine, Load, Meeting, cut
from mmrlhf_ray.weights.loading import REFUSED
from mmrlhf_ray.weights.object_store import IPC
from mmrlhf_ray.weights.shared import SharedBuffer, look_into

_WINDOWS = 2
"""One is filled while the other is loaded."""
_LOOK = timedelta(seconds=1)
"""Between two looks whether the group was given up."""
_DEVICE_INDEX = 6
"""Of the arguments with which PyTorch opens another process's GPU memory, the number of the GPU."""


class Handle(Protocol):
    """A window, as the workers are told of it."""

    def open(self, device: torch.device) -> Tensor:
        """Its bytes, uint8. Raises OSError, RuntimeError."""
        ...


@dataclass(frozen=True)
class HostHandle:
    """A window in the host's memory."""

    name: str
    nbytes: int

    def open(self, device: torch.device) -> Tensor:
        return torch.from_numpy(look_into(self.name, self.nbytes))


@dataclass(frozen=True)
class DeviceHandle:
    """A window in a GPU's memory."""

    arguments: tuple[object, ...]
    """Of rebuild_cuda_tensor()."""

    def open(self, device: torch.device) -> Tensor:
        own = list(self.arguments)
        own[_DEVICE_INDEX] = device.index  # the number that the same GPU has here
        return rebuild_cuda_tensor(*own)


class Window(Protocol):
    """Memory of the learner's first rank."""

    def take(self, nbytes: int) -> Tensor:
        """uint8 [nbytes], to be filled."""
        ...

    def full(self) -> Handle:
        """What was written is there for others to see."""
        ...


class HostWindow:
    """A Window in memory of the host."""

    def __init__(self) -> None:
        self._memory = SharedBuffer()

    def take(self, nbytes: int) -> Tensor:
        return torch.from_numpy(self._memory.view(nbytes))

    def full(self) -> HostHandle:
        return HostHandle(self._memory.name, self._memory.nbytes)


class DeviceWindow:
    """A Window in memory of a GPU; PyTorch's allocator of expandable segments cannot share its memory."""

    def __init__(self, device: torch.device) -> None:
        self._memory = torch.empty(0, dtype=torch.uint8, device=device)
        self._handle = DeviceHandle(())

    def take(self, nbytes: int) -> Tensor:
        if nbytes > self._memory.nbytes:
            self._memory = torch.empty(nbytes, dtype=torch.uint8, device=self._memory.device)
            self._handle = DeviceHandle(reduce_tensor(self._memory)[1])  # once: every call is counted as one reader
        return self._memory[:nbytes]

    def full(self) -> DeviceHandle:
        torch.accelerator.synchronize(self._memory.device)
        return self._handle


class IPCWire:
    """A Wire. Word passes through a store in the learner's first rank: when that is gone, so is the store."""

    def __init__(self, info: GroupInfo, rank: int, listener: socket.socket | None = None):
        group = StatelessProcessGroup.create(
            info.address, info.port, rank, info.world_size, store_timeout=int(info.meet_s) + 1, listen_socket=listener
        )
        self._store: Store | None = group.store
        self._rank, self._workers = rank, range(1, info.world_size)
        self._bucket_bytes, self._deadline_s = info.bucket_bytes, info.deadline_s
        self._pushes = 0
        self._windows: list[Window] = []
        self._open: dict[Handle, Tensor] = {}
        """Windows of the learner's first rank that this worker looks into."""

    def send(self, metadata: Sequence[ParamMeta], tensors: Iterator[tuple[str, Tensor]]) -> None:
        first = next(tensors)
        device, tensors = first[1].device, chain([first], tensors)
        self._windows = self._windows or [_window(device) for _ in range(_WINDOWS)]
        until = self._begin()
        layouts = list(cut(metadata, self._bucket_bytes))
        for number, layout in enumerate(layouts):
            self._wait_taken(number - _WINDOWS, until)
            window = self._windows[number % _WINDOWS]
            buffer = window.take(size(layout))
            for item in layout:
                place(item, next(tensors)[1], buffer)
            self._tell(self._key(number), pickle.dumps(window.full()))
        for number in range(len(layouts) - _WINDOWS, len(layouts)):
            self._wait_taken(number, until)
        next(tensors, None)  # there is no more, and whoever gives them learns that they were all taken

    def receive(self, metadata: Sequence[ParamMeta], load: Load, device: torch.device) -> None:
        buffers, until = Buffers(), self._begin()
        for number, layout in enumerate(cut(metadata, self._bucket_bytes)):
            window = self._look(self._wait(self._key(number), until), device)
            # vLLM may look at what it is given until all of a layer is there, when the window has other bytes.
            nbytes = size(layout)
            own = (
                buffers.take(nbytes) if device.type == "cpu" else torch.empty(nbytes, dtype=torch.uint8, device=device)
            )
            own.copy_(window[:nbytes])
            if device.type != "cpu":
                torch.accelerator.synchronize(device)
            self._tell(self._key(number, self._rank), b"")
            load(list(views(layout, own)))

    def _look(self, told: bytes, device: torch.device) -> Tensor:
        handle: Handle = pickle.loads(told)
        if handle not in self._open:
            try:
                self._open[handle] = handle.open(device)
            except (OSError, RuntimeError) as error:
                raise RunError(
                    f"{REFUSED}a worker cannot look into the learner's memory ({error}); weights.transport=ipc is for "
                    "a learner and generators of one host, set it to auto"
                ) from error
        return self._open[handle]

    def _begin(self) -> float:
        """A further push; time.monotonic() until when it may last."""
        self._pushes += 1
        return time.monotonic() + self._deadline_s

    def _key(self, bucket: int, taken_by: int | None = None) -> str:
        key = f"{self._pushes}/{bucket}"
        return key if taken_by is None else f"{key}/{taken_by}"

    def _wait_taken(self, bucket: int, until: float) -> None:
        """Until all workers have the bytes of the bucket, if there is such a one; its words are then forgotten."""
        if bucket < 0:
            return
        for key in (self._key(bucket, worker) for worker in self._workers):
            self._wait(key, until)
            self._still().delete_key(key)
        self._still().delete_key(self._key(bucket))

    def _tell(self, key: str, word: bytes) -> None:
        self._still().set(key, word)

    def _wait(self, key: str, until: float) -> bytes:
        while True:
            store = self._still()
            try:
                store.wait([key], _LOOK)
            except DistNetworkError:
                raise
            except DistStoreError as error:  # not there yet
                if time.monotonic() > until:
                    raise RuntimeError("the other end says nothing more") from error
            else:
                return store.get(key)

    def _still(self) -> Store:
        if self._store is None:
            raise RuntimeError("the group was given up")
        return self._store

    def leave(self) -> None:
        self._store = None
        self._windows, self._open = [], {}


def _window(device: torch.device) -> Window:
    return HostWindow() if device.type == "cpu" else DeviceWindow(device)


class IPCWorkerEngine(GroupWorkerEngine):
    """A worker's."""

    open_wire = IPCWire


@dataclass
class IPCMeeting(Meeting):
    backend: ClassVar[str] = IPC


class IPCTrainerEngine(GroupTrainerEngine):
    """A learner's."""

    init_info_cls = IPCMeeting
    open_wire = IPCWire
