"""The reference policy's KL server, and the driver's way to ask it."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
import ray
import torch

from mmrlhf_ray.config.base import ModelConfig
from mmrlhf_ray.config.distillation import DistillationConfig
from mmrlhf_ray.data.batches.batching import PassBudget, Shard
from mmrlhf_ray.data.batches.collate import rollout_rows
from mmrlhf_ray.data.batches.ragged import Ragged
from mmrlhf_ray.data.encoding.features import read_features
from mmrlhf_ray.rollout.batch import Rollouts
from mmrlhf_ray.runtime.actors import ActorGroup
from mmrlhf_ray.runtime.devices import Held, Phase, merged
from mmrlhf_ray.schema import ROLLOUT, check
from mmrlhf_ray.training.distilling import TeacherReader
from mmrlhf_ray.training.logprobs import frozen_policy
from mmrlhf_ray.training.passes import Inference, Passes, Reader
from mmrlhf_ray.workers.roles.answers import Answer, Pending, divide


class Reference:
    """The policy as it was at the start, and teachers. Consumes ROLLOUT rows with the FEATURES of their clips;
    `ref_logprobs` of each token, and what the teachers would have said."""

    def __init__(
        self,
        model: ModelConfig | None,
        temperature: float,
        device: str,
        allowed: Sequence[str] = (),
        distillation: DistillationConfig | None = None,
    ):
        """`model`: None where no one asks for `ref_logprobs`. `distillation`: whose teachers it holds too."""
        self._policy = frozen_policy(model, temperature, device, allowed) if model else None
        teachers = distillation.teachers if distillation else ()
        self._teachers = [frozen_policy(teacher.model, temperature, device, allowed) for teacher in teachers]
        self._top_k = distillation.top_k if distillation else None
        self._device = torch.device(device)

    @ray.method
    def ready(self) -> None:
        """Answers when the model is loaded."""

    @ray.method
    def logprobs(self, rollouts: pa.Table, shard: Shard, *features: pa.Table) -> Answer:
        """log p of the response tokens of the shard's rows under the sampling distribution. Raises ValueError where the
        server holds no reference."""
        if self._policy is None:
            raise ValueError("this server holds teachers alone")
        start = time.monotonic()
        table = check(rollouts, ROLLOUT, "Reference.logprobs").take(list(shard.rows))
        return per_token(self._policy.passes, table, features, shard, self._policy.read), time.monotonic() - start

    @ray.method
    def teach(self, rollouts: pa.Table, shard: Shard, *features: pa.Table) -> Answer:
        """What each teacher would have said at the response tokens of the shard's rows, as in the column
        `teacher_distributions` of EXPERIENCE."""
        start = time.monotonic()
        table = check(rollouts, ROLLOUT, "Reference.teach").take(list(shard.rows))
        rows, arrays = rollout_rows(table, with_facts=False), read_features(*features)
        said = [
            teacher.passes.per_token(rows, arrays, shard.steps[0], TeacherReader(teacher.read, self._top_k))
            for teacher in self._teachers
        ]
        by_row = [np.concatenate(own, axis=1).reshape(-1) for own in zip(*said, strict=True)]
        return Ragged.of_rows(by_row), time.monotonic() - start

    @property
    def _models(self) -> list[Inference]:
        return [policy.model for policy in (self._policy, *self._teachers) if policy is not None]

    @ray.method
    def leave(self) -> Held:
        """The models wait in the host's memory; what is left on their device."""
        return merged([model.leave() for model in self._models])

    @ray.method
    def enter(self) -> Held:
        """The models are on their device again; what is there."""
        return merged([model.enter(self._device) for model in self._models])


def per_token(
    passes: Passes,
    table: pa.Table,
    features: Sequence[pa.Table],
    shard: Shard,
    read: Reader,
) -> Ragged:
    """One value per response token from `read`."""
    rows = rollout_rows(table, with_facts=False)
    return Ragged.of_rows(passes.per_token(rows, read_features(*features), shard.steps[0], read))


class AsksReference(Protocol):
    """The driver's way to ask for `ref_logprobs`, whoever answers."""

    def ask(self, rollouts: Rollouts) -> Pending:
        """`ref_logprobs` of each row; nothing blocks."""


@dataclass(frozen=True)
class References:
    """The reference servers; rows are divided among them."""

    group: ActorGroup[Reference]
    budget: PassBudget
    deadline_s: float

    def wait_ready(self, seconds: float) -> None:
        """Until every server has loaded its model. Raises what loading raised, DeadlineExceeded."""
        self.group.wait([handle.ready.remote() for handle in self.group.handles], seconds, "starting the reference")

    def ask(self, rollouts: Rollouts) -> Pending:
        """`ref_logprobs` of each row; nothing blocks."""
        shards = divide(rollouts, len(self.group), self.budget)
        refs = [
            handle.logprobs.remote(rollouts.ref, shard, *rollouts.features_of(shard.rows))
            for handle, shard in zip(self.group.handles, shards, strict=True)
        ]
        return Pending(refs, self.group.names, shards, self.deadline_s, "reference log-probabilities")

    def teach(self, rollouts: Rollouts) -> Pending:
        """What the teachers would have said at each token, as Reference.teach(); nothing blocks."""
        shards = divide(rollouts, len(self.group), self.budget)
        refs = [
            handle.teach.remote(rollouts.ref, shard, *rollouts.features_of(shard.rows))
            for handle, shard in zip(self.group.handles, shards, strict=True)
        ]
        return Pending(refs, self.group.names, shards, self.deadline_s, "teachers' distributions")

    def leave(self) -> list[Held]:
        """As Taking.leave()."""
        refs = [handle.leave.remote() for handle in self.group.handles]
        return self.group.wait(refs, self.deadline_s, "leaving the devices")

    def enter(self, phase: Phase) -> list[Held]:
        """As Taking.enter()."""
        refs = [handle.enter.remote() for handle in self.group.handles]
        return self.group.wait(refs, self.deadline_s, "coming back to the devices")
