"""What a PPO learner trains: the policy or the critic. The learner itself is the same."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import torch
from torch import Tensor

from mmrlhf_ray.algorithms.logprobs import token_logprobs, token_logprobs_and_entropy
from mmrlhf_ray.algorithms.policy_loss import entropy_bonus, ppo_policy_loss
from mmrlhf_ray.algorithms.stats import Stats
from mmrlhf_ray.algorithms.value_loss import ppo_value_loss
from mmrlhf_ray.config.jobs import AlgorithmConfig
from mmrlhf_ray.data.collate import Batch, flat_column
from mmrlhf_ray.data.encode import Encoder
from mmrlhf_ray.models import HeadedModel, load_policy, load_scalar
from mmrlhf_ray.training.passes import LossFunction


class Objective(Protocol):
    """A head, what is read from it, and its loss."""

    scalar: bool
    """Whether the head is a scalar one."""

    def load(self, encoder: Encoder, path: Path, dtype: torch.dtype) -> HeadedModel: ...

    def read(self, encoder: Encoder, output: Tensor, batch: Batch) -> Tensor:
        """One number per response token [N] from the head's output [N, ·]."""

    def loss(self, encoder: Encoder, table: pa.Table, denominator: int) -> LossFunction:
        """Loss over passes of EXPERIENCE rows; `denominator` is the step's response tokens over all ranks."""


def _columns(table: pa.Table, rows: Sequence[int], device: torch.device, *names: str) -> list[Tensor]:
    return [torch.from_numpy(flat_column(table, name, rows).copy()).to(device)[None] for name in names]


def _banned(encoder: Encoder, device: torch.device) -> Tensor:
    return torch.tensor(encoder.banned_token_ids, dtype=torch.long, device=device)


@dataclass(frozen=True)
class PolicyObjective:
    """log p of the sampling distribution; PPO's clipped loss."""

    algorithm: AlgorithmConfig
    temperature: float
    scalar = False

    def load(self, encoder: Encoder, path: Path, dtype: torch.dtype) -> HeadedModel:
        return load_policy(encoder.adapter, path, dtype)

    def read(self, encoder: Encoder, output: Tensor, batch: Batch) -> Tensor:
        return token_logprobs(output, batch.response_tokens, self.temperature, _banned(encoder, output.device))

    def loss(self, encoder: Encoder, table: pa.Table, denominator: int) -> LossFunction:
        def loss(output: Tensor, batch: Batch, rows: Sequence[int]) -> tuple[Tensor, Stats]:
            old, advantages, mask = _columns(table, rows, output.device, "old_logprobs", "advantages", "response_mask")
            if not self.algorithm.entropy_coef:
                logprobs = self.read(encoder, output, batch)
                return ppo_policy_loss(logprobs[None], old, advantages, mask, self.algorithm.clip_range, denominator)
            logprobs, entropy = token_logprobs_and_entropy(
                output, batch.response_tokens, self.temperature, _banned(encoder, output.device)
            )
            bonus, entropy_stats = entropy_bonus(entropy[None], mask, denominator)
            value, stats = ppo_policy_loss(
                logprobs[None], old, advantages, mask, self.algorithm.clip_range, denominator
            )
            return value - self.algorithm.entropy_coef * bonus, stats | entropy_stats

        return loss


@dataclass(frozen=True)
class CriticObjective:
    """V of the state before each response token; PPO's clipped value loss. Starts from a reward model."""

    algorithm: AlgorithmConfig
    scalar = True

    def load(self, encoder: Encoder, path: Path, dtype: torch.dtype) -> HeadedModel:
        return load_scalar(encoder.adapter, path, dtype, new_head=False)

    def read(self, encoder: Encoder, output: Tensor, batch: Batch) -> Tensor:
        return output[:, 0].float()

    def loss(self, encoder: Encoder, table: pa.Table, denominator: int) -> LossFunction:
        def loss(output: Tensor, batch: Batch, rows: Sequence[int]) -> tuple[Tensor, Stats]:
            old, returns, mask = _columns(table, rows, output.device, "values", "returns", "response_mask")
            values = self.read(encoder, output, batch)[None]
            value, stats = ppo_value_loss(values, old, returns, mask, self.algorithm.value_clip_range, denominator)
            return value * self.algorithm.vf_coef, stats

        return loss
