"""Reward models that see the media, and the driver's way to ask them."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import ray
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmrlhf_ray.config.base import ModelConfig
from mmrlhf_ray.data.batches.batching import PassBudget, Shard
from mmrlhf_ray.data.batches.collate import rollout_rows
from mmrlhf_ray.data.batches.ragged import Ragged
from mmrlhf_ray.data.encoding.encode import Encoder, load_encoder
from mmrlhf_ray.data.encoding.features import read_features
from mmrlhf_ray.models import ScalarHead, check_same_tokens, load_scalar, read_scalar_head
from mmrlhf_ray.models.score_fit import ScoreFit, read_score_fit
from mmrlhf_ray.rollout.batch import Rollouts
from mmrlhf_ray.runtime.actors import ActorGroup
from mmrlhf_ray.runtime.devices import Held, Phase, merged
from mmrlhf_ray.schema import ROLLOUT, check
from mmrlhf_ray.training.passes import Inference, Passes, Reader, device_map
from mmrlhf_ray.workers.roles.answers import Answer, Pending, divide


class Scorer:
    """Reward models that see the media. Consumes ROLLOUT rows with the FEATURES of their clips; scores."""

    def __init__(self, models: Sequence[ModelConfig], device: str, quantiles: Sequence[float | None] = ()):
        """quantiles: of each model's members, which of their scores is the score; None = their mean."""
        self._quantiles = list(quantiles) or [None] * len(models)
        self._paths = [model.path for model in models]
        encoders = [load_encoder(model.path) for model in models]
        self._device = torch.device(device)
        self._models = [_reward_model(*own, self._device) for own in zip(models, encoders, strict=True)]
        self._start = encoders[0].special.start

    @ray.method
    def ready(self) -> None:
        """Answers when the models are loaded. Raises ModelError unless they share one tokenizer."""
        check_same_tokens(*self._paths)

    @ray.method
    def score(self, rollouts: pa.Table, shard: Shard, *features: pa.Table) -> Answer:
        """Of each of the shard's rows [2 · models]: score and uncertainty by each model in order."""
        return self._read(rollouts, features, shard, _score_and_uncertainty)

    @ray.method
    def members(self, rollouts: pa.Table, shard: Shard, *features: pa.Table) -> Answer:
        """Of each of the shard's rows: the scores by the members of each model's ensemble, model after model."""
        return self._read(rollouts, features, shard, lambda members, quantile: members)

    @ray.method
    def leave(self) -> Held:
        """The models wait in the host's memory; what is left on its device."""
        return merged([own.model.leave() for own in self._models])

    @ray.method
    def enter(self) -> Held:
        """The models are on their device again; what is there."""
        return merged([own.model.enter(self._device) for own in self._models])

    def _read(
        self,
        rollouts: pa.Table,
        features: Sequence[pa.Table],
        shard: Shard,
        say: Callable[[NDArray[np.float32], float | None], NDArray[np.float32]],
    ) -> Answer:
        """`say(members' scores [N, members], quantile)` → [N, columns] by each model, side by side."""
        start = time.monotonic()
        table = check(rollouts, ROLLOUT, "Scorer").take(list(shard.rows))
        rows, arrays = rollout_rows(table, with_facts=True, start=self._start), read_features(*features)
        tasks, columns = table.column("task").to_pylist(), []
        for own, quantile in zip(self._models, self._quantiles, strict=True):
            members = np.empty((len(rows), own.head.ensemble), np.float32)
            reader = _reader(own.head.member_scores)
            for micro_batch, values in own.passes.infer(rows, arrays, shard.steps[0], reader, at_last=True):
                members[list(micro_batch.rows)] = values.numpy()
            fitted = own.fit.applied(members, [row.response for row in rows], tasks)
            columns.append(say(fitted, quantile))
        return Ragged.of_rows(list(np.concatenate(columns, axis=1))), time.monotonic() - start


@dataclass(frozen=True)
class _RewardModel:
    model: Inference
    passes: Passes
    head: ScalarHead
    fit: ScoreFit


def _reward_model(model: ModelConfig, encoder: Encoder, device: torch.device) -> _RewardModel:
    dtype = getattr(torch, model.compute_dtype)
    scalar = load_scalar(encoder.adapter, Path(model.path), dtype, new_head=False, device_map=device_map(device.type))
    inference = Inference(scalar)
    return _RewardModel(
        inference, Passes(inference, encoder, device), read_scalar_head(model.path), read_score_fit(model.path)
    )


def _score_and_uncertainty(members: NDArray[np.float32], quantile: float | None) -> NDArray[np.float32]:
    """[N, 2] of the members' scores [N, members]: their mean, or a quantile of them, and their standard deviation."""
    score = members.mean(axis=1) if quantile is None else np.quantile(members, quantile, axis=1)
    return np.stack([score, members.std(axis=1)], axis=1).astype(np.float32)


def _reader(read: Callable[[Tensor], Tensor]) -> Reader:
    return lambda output, _: read(output.float())


@dataclass(frozen=True)
class Scorers:
    """The actors that hold the reward models; rows are divided among them."""

    group: ActorGroup[Scorer]
    budget: PassBudget
    deadline_s: float

    def wait_ready(self, seconds: float) -> None:
        """Until every scorer has loaded its models. Raises what loading raised, DeadlineExceeded."""
        self.group.wait([handle.ready.remote() for handle in self.group.handles], seconds, "starting the scorers")

    def ask(self, rollouts: Rollouts) -> Pending:
        """Score and uncertainty of each row by each model; nothing blocks."""
        shards = divide(rollouts, len(self.group), self.budget, with_facts=True)
        refs = [
            handle.score.remote(rollouts.ref, shard, *rollouts.features_of(shard.rows))
            for handle, shard in zip(self.group.handles, shards, strict=True)
        ]
        return Pending(refs, self.group.names, shards, self.deadline_s, "scoring")

    def ask_members(self, rollouts: Rollouts) -> Pending:
        """Scores of each row by the members of each model's ensemble; nothing blocks."""
        shards = divide(rollouts, len(self.group), self.budget, with_facts=True)
        refs = [
            handle.members.remote(rollouts.ref, shard, *rollouts.features_of(shard.rows))
            for handle, shard in zip(self.group.handles, shards, strict=True)
        ]
        return Pending(refs, self.group.names, shards, self.deadline_s, "scoring by members")

    def leave(self) -> list[Held]:
        """As Taking.leave()."""
        refs = [handle.leave.remote() for handle in self.group.handles]
        return self.group.wait(refs, self.deadline_s, "leaving the devices")

    def enter(self, phase: Phase) -> list[Held]:
        """As Taking.enter()."""
        refs = [handle.enter.remote() for handle in self.group.handles]
        return self.group.wait(refs, self.deadline_s, "coming back to the devices")
