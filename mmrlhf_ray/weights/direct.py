"""A learner rank's pushes straight into the workers of all generators, and the groups for it."""

import secrets
import socket
from collections.abc import Mapping
from typing import Protocol

import torch
from vllm.distributed.weight_transfer.base import TrainerWeightTransferEngine, VLLMWeightSyncClient
from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory

from mmrlhf_ray.config.weights import WeightTransport
from mmrlhf_ray.models import ModelAdapter
from mmrlhf_ray.training.engine import TrainEngine
from mmrlhf_ray.weights.gloo import GlooMeeting
from mmrlhf_ray.weights.group import Meeting
from mmrlhf_ray.weights.ipc import IPCMeeting
from mmrlhf_ray.weights.layout import combine
from mmrlhf_ray.weights.nccl import NCCLMeeting
from mmrlhf_ray.weights.object_store import register
from mmrlhf_ray.weights.push import Sent
from mmrlhf_ray.weights.source import LearnerSource

_MEETINGS: Mapping[WeightTransport, type[Meeting]] = {"gloo": GlooMeeting, "ipc": IPCMeeting, "nccl": NCCLMeeting}


class Receivers(VLLMWeightSyncClient, Protocol):
    """The generators of a push, as the learner's first rank asks them."""

    group: str
    """The name of the group that they are to join."""

    def groups(self) -> list[tuple[str, int]]:
        """The group that each is in, "" where it is in none, and how many workers its engine has."""
        ...


class DirectPush:
    """One rank's. The first has one group at most: of the generators that it pushed to last. Where it is to push to
    others, or one of them was started again, or a push broke off, all of them meet in a new one."""

    def __init__(
        self,
        transport: WeightTransport,
        engine: TrainEngine,
        adapter: ModelAdapter,
        bucket_bytes: int,
        rank: int,
        address: str,
    ):
        """Of the weights of `engine`, in buckets of at most `bucket_bytes`. address: this node's, where the others find
        the first rank."""
        register()
        device = torch.device("cpu") if transport == "gloo" else engine.device
        self._source = LearnerSource(engine, adapter, bucket_bytes, device)
        self._meeting, self._bucket_bytes = _MEETINGS[transport], bucket_bytes
        self._rank, self._address = rank, address
        self._engine: TrainerWeightTransferEngine[Meeting] | None = None
        self._held: list[tuple[str, int]] = []
        """What generators say that are in the group and no others, see Receivers.groups()."""

    def push(self, receivers: Receivers, deadline_s: float) -> Sent:
        """A collective. Raises what a generator raised, RoleFailed and DeadlineExceeded; no group is then left."""
        try:
            engine = self._joined(receivers, deadline_s)
            engine.send_weights()
        except BaseException:
            self._leave()
            raise
        finally:
            self._source.end_pass()
        sums = self._source.sums
        return Sent(combine(sums), frozenset(sums), self._source.nbytes)

    def _joined(self, receivers: Receivers, deadline_s: float) -> TrainerWeightTransferEngine[Meeting]:
        first = self._rank == 0
        held = receivers.groups() if first else self._held
        if self._engine is not None and held == self._held:
            return self._engine
        self._leave()
        listener = None
        if first:
            receivers.group = secrets.token_hex(8)
            listener = socket.create_server((self._address, 0))
            self._held = [(receivers.group, workers) for _, workers in held]
        world_size = 1 + sum(workers for _, workers in held)
        meeting = self._meeting(listener, world_size, self._bucket_bytes, deadline_s, rank=self._rank)
        self._engine = WeightTransferTrainerFactory.trainer_init(meeting, client=receivers, source=self._source)
        return self._engine

    def _leave(self) -> None:
        if self._engine is not None:
            self._engine.shutdown()
        self._engine, self._held = None, []
