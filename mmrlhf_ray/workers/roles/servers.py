"""Actors that only answer: reward-model scorers and the reference policy's KL server."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from mmrlhf_ray.algorithms.logprobs import token_logprobs
from mmrlhf_ray.config.base import ModelConfig
from mmrlhf_ray.data.batches.batching import Shard
from mmrlhf_ray.data.batches.collate import Batch, rollout_rows
from mmrlhf_ray.data.encoding.encode import load_encoder
from mmrlhf_ray.data.encoding.features import read_features
from mmrlhf_ray.models import ScalarHead, check_same_tokens, load_policy, load_scalar, read_scalar_head
from mmrlhf_ray.schema import ROLLOUT, check
from mmrlhf_ray.training.passes import Inference, Passes

Answer = tuple[list[np.ndarray], float]
"""One float32 array per row of the shard, in the shard's order, and the seconds it took."""


def device_map(device: str) -> str | None:
    """On GPUs, spread the layers over all that the actor reserved: a large frozen model need not fit on one."""
    return "auto" if device == "cuda" else None


class Scorer:
    """Reward models that see the media. Consumes ROLLOUT rows with their FEATURES; scores of each response."""

    def __init__(self, models: Sequence[ModelConfig], device: str):
        self._paths = [model.path for model in models]
        self._models = [_reward_model(model, device) for model in models]

    def ready(self) -> None:
        """Answers when the models are loaded. Raises ModelError unless they share one tokenizer."""
        check_same_tokens(*self._paths)

    def score(self, rollouts: pa.Table, features: pa.Table, shard: Shard) -> Answer:
        """Of each of the shard's rows [2 · models]: score and uncertainty by each model in order."""
        return self._read(rollouts, features, shard, _scores)

    def members(self, rollouts: pa.Table, features: pa.Table, shard: Shard) -> Answer:
        """Of each of the shard's rows: the scores by the members of each model's ensemble, model after model."""
        return self._read(rollouts, features, shard, ScalarHead.member_scores)

    def _read(
        self, rollouts: pa.Table, features: pa.Table, shard: Shard, read: Callable[[ScalarHead, Tensor], Tensor]
    ) -> Answer:
        """`read(head, outputs [N, outputs])` → [N, columns] by each model, side by side."""
        start = time.monotonic()
        table = check(rollouts, ROLLOUT, "Scorer").take(list(shard.rows))
        rows, arrays = rollout_rows(table, with_facts=True), read_features(features)
        columns = []
        for passes, head in self._models:
            answers: list[np.ndarray] = [np.empty(0, np.float32)] * len(rows)
            reader = _reader(partial(read, head))
            for micro_batch, values in passes.infer(rows, arrays, shard.steps[0], reader, at_last=True):
                for row, value in zip(micro_batch.rows, values.numpy(), strict=True):
                    answers[row] = value
            columns.append(answers)
        return [np.concatenate(own) for own in zip(*columns, strict=True)], time.monotonic() - start


def _reward_model(model: ModelConfig, device: str) -> tuple[Passes, ScalarHead]:
    encoder = load_encoder(model.path)
    dtype = getattr(torch, model.dtype)
    scalar = load_scalar(encoder.adapter, Path(model.path), dtype, new_head=False, device_map=device_map(device))
    return Passes(Inference(scalar), encoder, torch.device(device)), read_scalar_head(model.path)


def _scores(head: ScalarHead, outputs: Tensor) -> Tensor:
    return torch.stack(head.score(outputs), dim=1)


def _reader(read: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Batch], Tensor]:
    return lambda output, _: read(output.float())


class Reference:
    """The policy as it was at the start. Consumes ROLLOUT rows with their FEATURES; `ref_logprobs` of each token."""

    def __init__(self, model: ModelConfig, temperature: float, device: str):
        encoder = load_encoder(model.path)
        dtype = getattr(torch, model.dtype)
        policy = load_policy(encoder.adapter, Path(model.path), dtype, device_map(device))
        self._banned = torch.tensor(encoder.banned_token_ids, dtype=torch.long, device=device)
        self._temperature = temperature
        self._passes = Passes(Inference(policy), encoder, torch.device(device))

    def ready(self) -> None:
        """Answers when the model is loaded."""

    def logprobs(self, rollouts: pa.Table, features: pa.Table, shard: Shard) -> Answer:
        """log p of the response tokens of the shard's rows under the sampling distribution."""
        start = time.monotonic()
        table = check(rollouts, ROLLOUT, "Reference.logprobs").take(list(shard.rows))
        return per_token(self._passes, table, features, shard, self._read), time.monotonic() - start

    def _read(self, output: Tensor, batch: Batch) -> Tensor:
        return token_logprobs(output, batch.response_tokens, self._temperature, self._banned)


def per_token(
    passes: Passes, table: pa.Table, features: pa.Table, shard: Shard, read: Callable[[Tensor, Batch], Tensor]
) -> list[np.ndarray]:
    """One value per response token from `read(output, batch)`, cut into rows."""
    return passes.per_token(rollout_rows(table, with_facts=False), read_features(features), shard.steps[0], read)
