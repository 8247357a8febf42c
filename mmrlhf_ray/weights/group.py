"""Pushes from the learner's first rank straight into the workers of all generators: both ends, whatever lies between.

They are engines of vLLM's own weight transfer, as its NCCL ones are. What is sent is told first, by name, dtype and
shape; then it goes through a Wire, which gloo.py, ipc.py and nccl.py have.
"""

import socket
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import asdict, dataclass
from threading import Timer
from typing import ClassVar, Protocol, Self

import torch
from torch import Tensor
from vllm.config import VllmConfig, WeightTransferConfig
from vllm.distributed.weight_transfer.base import (
    ParamMeta,
    TrainerInitInfo,
    TrainerWeightTransferEngine,
    VLLMWeightSyncClient,
    WeightSource,
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)

from mmrlhf_ray.errors import DeadlineExceeded, KnownError, RoleFailed
from mmrlhf_ray.runtime.waits import in_background
from mmrlhf_ray.weights.buckets import lay_out
from mmrlhf_ray.weights.layout import MEET_S, TensorLayout
from mmrlhf_ray.weights.loading import Loading, end_if_abandoned

Load = Callable[[Sequence[tuple[str, Tensor]]], None]
_SHOWN = 200
_LAST_WORDS_S = 5.0
"""How long the reason of the other end is waited for after the connection to it broke."""


@dataclass(kw_only=True)
class GroupInfo(WeightTransferInitInfo):
    """A group, as its workers are told of it."""

    address: str
    port: int
    rank_offset: int = 1
    """Rank of an engine's first worker; rank 0 is the learner's."""
    world_size: int
    bucket_bytes: int
    deadline_s: float
    """Of each push."""

    @property
    def meet_s(self) -> float:
        """Seconds within which all must have come: a worker that waits here answers nothing else."""
        return min(MEET_S, self.deadline_s)


@dataclass
class NamedUpdateInfo(WeightTransferUpdateInfo):
    """All tensors of a push, in the order in which they come."""

    names: list[str]
    dtype_names: list[str]
    shapes: list[list[int]]

    @classmethod
    def of(cls, metadata: Sequence[ParamMeta]) -> Self:
        dtypes = [str(m.dtype).removeprefix("torch.") for m in metadata]
        return cls([m.name for m in metadata], dtypes, [list(m.shape) for m in metadata])

    @property
    def metadata(self) -> list[ParamMeta]:
        told = zip(self.names, self.dtype_names, self.shapes, strict=True)
        return [ParamMeta(name, getattr(torch, dtype), tuple(shape)) for name, dtype, shape in told]


def cut(metadata: Sequence[ParamMeta], bucket_bytes: int) -> Iterator[list[TensorLayout]]:
    """The buckets of a push, the same at both ends, which both know what was told."""
    return lay_out(((m.name, torch.empty(m.shape, dtype=m.dtype, device="meta")) for m in metadata), bucket_bytes)


class Wire(Protocol):
    """A process group of the learner's first rank and all workers."""

    def send(self, metadata: Sequence[ParamMeta], tensors: Iterator[tuple[str, Tensor]]) -> None:
        """One push, from rank 0. Raises RuntimeError where the connection breaks, and what `tensors` raises."""
        ...

    def receive(self, metadata: Sequence[ParamMeta], load: Load, device: torch.device) -> None:
        """One push, at all other ranks, given to `load` part by part. Raises as send(), and what `load` raises."""
        ...

    def leave(self) -> None:
        """Give the group up, so that no one waits for this end; from any thread, and more than once."""
        ...


class OpenWire(Protocol):
    def __call__(self, info: GroupInfo, rank: int, listener: socket.socket | None = None) -> Wire:
        """Meet the others. listener: of rank 0, at the address that the others are told. Raises RuntimeError."""
        ...


class GroupWorkerEngine(WeightTransferEngine[GroupInfo, NamedUpdateInfo]):
    """The end of one worker."""

    init_info_cls = GroupInfo
    update_info_cls = NamedUpdateInfo
    open_wire: ClassVar[OpenWire]

    def __init__(
        self, config: WeightTransferConfig, vllm_config: VllmConfig, device: torch.device, model: torch.nn.Module
    ) -> None:
        super().__init__(config, vllm_config, device, model)
        self.loading = Loading(model, device)
        self._wire: Wire | None = None

    def init_transfer_engine(self, init_info: GroupInfo) -> None:
        """Join the group, in the place of an earlier one."""
        self.shutdown()
        own = self.parallel_config
        rank = init_info.rank_offset + own.data_parallel_index * own.world_size + own.rank
        self._wire = self.open_wire(init_info, rank)

    def start_weight_update(self) -> None:
        self.loading.start()

    def update_weights(self, update_info: dict[str, list[str]]) -> None:
        # The base class synchronises an accelerator, which a CPU build does not have.
        end_if_abandoned(update_info)
        self.receive_weights(self.parse_update_info(update_info))
        if self.device.type != "cpu":
            torch.accelerator.synchronize()

    def receive_weights(self, update_info: NamedUpdateInfo) -> None:
        """Raises RunError as Loading.load(); whatever it raises, the group is given up."""
        if self._wire is None:
            raise RuntimeError("the worker has not joined a group")
        try:
            self._wire.receive(update_info.metadata, self.loading.load, self.device)
        except BaseException:
            self.shutdown()
            raise

    def finish_weight_update(self) -> None:
        self.loading.finish(self.model_config)

    def shutdown(self) -> None:
        """Leave the group, if any."""
        if self._wire is not None:
            self._wire.leave()
            self._wire = None


@dataclass
class Meeting(TrainerInitInfo):
    """Where a group meets: at the learner's first rank, whose socket listens before anyone is told of it."""

    backend: ClassVar[str] = "none"
    listener: socket.socket | None
    """None on all ranks but the first, which are in no group."""
    world_size: int
    """The learner's first rank and all workers of all generators."""
    bucket_bytes: int
    deadline_s: float


class GroupTrainerEngine(TrainerWeightTransferEngine[Meeting]):
    """The end of a rank of the learner; the first one sends."""

    init_info_cls = Meeting
    open_wire: ClassVar[OpenWire]
    source: WeightSource

    def __init__(self, meeting: Meeting, client: VLLMWeightSyncClient, source: WeightSource):
        super().__init__(client=client, source=source, is_sender=meeting.is_sender)
        self._deadline_s = meeting.deadline_s
        self._wire: Wire | None = None

    @classmethod
    def trainer_init(
        cls, init_info: Meeting, *, client: VLLMWeightSyncClient, source: WeightSource | None = None
    ) -> Self:
        """Meet the workers of all generators. Raises what a generator raised, RoleFailed, DeadlineExceeded."""
        if source is None:
            raise ValueError("source: expected the learner's weights, got None")
        engine = cls(init_info, client, source)
        if init_info.listener is not None:
            engine._meet(init_info, init_info.listener)
        return engine

    def _meet(self, meeting: Meeting, listener: socket.socket) -> None:
        address, port = listener.getsockname()[:2]
        info = GroupInfo(
            address=address,
            port=port,
            world_size=meeting.world_size,
            bucket_bytes=meeting.bucket_bytes,
            deadline_s=meeting.deadline_s,
        )
        opening = in_background(lambda: self.open_wire(info, 0, listener))  # which ends by itself
        self.client.init_weight_transfer_engine(asdict(info))
        try:
            self._wire = opening.result(timeout=info.meet_s)
        except FutureTimeout as error:
            raise DeadlineExceeded(f"weight push: no group with the generators within {info.meet_s:g} s") from error
        except RuntimeError as error:
            raise RoleFailed(f"weight push: no group with the generators: {str(error)[:_SHOWN]}") from error

    def send_weights(self) -> None:
        """One push; all ranks but the first only take part in its gathers. Raises as trainer_init(); the group is then
        given up."""
        metadata = self.source.metadata()
        if self._wire is None:
            for _ in self.source:
                pass
            return
        told = asdict(NamedUpdateInfo.of(metadata))
        tensors, wire = iter(self.source), self._wire
        self.client.start_weight_update()
        both(
            there=lambda: self.client.update_weights(told),
            here=lambda: wire.send(metadata, checked(metadata, tensors)),
            leave=wire.leave,
            deadline_s=self._deadline_s,
        )
        self.client.finish_weight_update()

    def shutdown(self) -> None:
        """Leave the group, if any."""
        if self._wire is not None:
            self._wire.leave()
            self._wire = None


def checked(metadata: Sequence[ParamMeta], tensors: Iterator[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """The tensors, all of them. Raises RoleFailed where they are not those that were told: bytes would go to others'
    places."""
    expected = iter(metadata)
    for name, tensor in tensors:
        told, came = next(expected, None), ParamMeta(name, tensor.dtype, tuple(tensor.shape))
        if told != came:
            raise RoleFailed(f"weight push: the learner had told of {told} next, and gathered {came}")
        yield name, tensor
    if missing := next(expected, None):
        raise RoleFailed(f"weight push: the learner had told of {missing} next, and gathered no more")


def both(there: Callable[[], None], here: Callable[[], None], leave: Callable[[], None], deadline_s: float) -> None:
    """Run `there()`, by which the other end receives, and `here()`, by which this one sends.

    Where one of them fails, or both take longer than the deadline, `leave()` gives up the group, so that no one waits
    in it for another; it must be possible more than once. Raises the other end's error rather than that of this one,
    which has mostly lost a connection only; RoleFailed where there is none; DeadlineExceeded.
    """
    told: Future[None] = in_background(there)
    told.add_done_callback(lambda done: leave() if done.exception() else None)
    alarm = Timer(deadline_s, leave)
    alarm.daemon = True
    alarm.start()
    try:
        here()
        told.result(timeout=deadline_s)
    except FutureTimeout as error:
        leave()
        raise DeadlineExceeded(f"weight push: no answer within {deadline_s:g} s from the generators") from error
    except KnownError:
        leave()
        raise
    except RuntimeError as error:
        leave()
        raise _reason(told, error) from error
    finally:
        alarm.cancel()


def _reason(told: "Future[None]", error: Exception) -> BaseException:
    try:
        known = told.exception(timeout=_LAST_WORDS_S)
    except FutureTimeout:
        known = None
    return known or RoleFailed(f"weight push: the connection to the generators broke: {str(error)[:_SHOWN]}")
