"""Objectives of an online learner: the policy's or the critic's. The learner itself is the same."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import torch
from torch import Tensor

from mmrlhf_ray.algorithms.aggregation import token_weights
from mmrlhf_ray.algorithms.distillation import distillation_loss
from mmrlhf_ray.algorithms.kl import kl_loss
from mmrlhf_ray.algorithms.losses import ppo_value_loss
from mmrlhf_ray.algorithms.mismatch import mismatch_weights
from mmrlhf_ray.algorithms.policy_loss import POLICY_LOSSES, Clip, entropy_bonus
from mmrlhf_ray.algorithms.statistics import Stats
from mmrlhf_ray.config.algorithm import AlgorithmConfig
from mmrlhf_ray.config.distillation import DistillationConfig
from mmrlhf_ray.data.batches.collate import Batch, flat_column, pad_rows
from mmrlhf_ray.data.encoding.encode import Encoder
from mmrlhf_ray.models import HeadedModel, load_critic, load_policy
from mmrlhf_ray.training.distilling import WithTeachers, numbers_of
from mmrlhf_ray.training.logprobs import ResponseLogprobs
from mmrlhf_ray.training.passes import Beside, LossFunction, Reader, Trainable

Noted = Callable[[Sequence[int], Tensor], None]
"""Takes the row numbers of a pass and log p of their response tokens [N], without gradient."""


class Objective(Trainable, Protocol):
    """A model with a head, what is read from the head, and its loss."""

    def reader(self, encoder: Encoder) -> Reader:
        """How the head's output is read: one number per response token [N]."""

    def loss_reader(self, encoder: Encoder) -> Reader:
        """The same for the loss, which may need more than one."""

    def beside(self, table: pa.Table) -> Beside | None:
        """Numbers of EXPERIENCE rows that the loss's reader is given next to their tokens."""

    def loss(
        self, encoder: Encoder, table: pa.Table, denominator: float, kl_coef: float, noted: Noted | None = None
    ) -> LossFunction:
        """Loss over passes of EXPERIENCE rows; `denominator` is that of the optimizer step over all ranks.

        With `noted` the policy's `old_logprobs` are those of the pass itself, not the table's, and are handed to it:
        for the only optimizer step of a batch.
        """


@dataclass(frozen=True)
class _Grids:
    """Columns of a pass's rows as [B, T]."""

    table: pa.Table
    rows: Sequence[int]
    device: torch.device

    @property
    def lengths(self) -> list[int]:
        return [
            len(r) for r in self.table.column("response_mask").combine_chunks().take(pa.array(self.rows, pa.int64()))
        ]

    def column(self, name: str) -> Tensor:
        flat = torch.from_numpy(flat_column(self.table, name, self.rows).copy()).to(self.device)
        return pad_rows(flat, self.lengths)

    def grid(self, values: Tensor) -> Tensor:
        """Values read in the pass, [N] as [B, T]."""
        return pad_rows(values, self.lengths)


@dataclass(frozen=True)
class PolicyObjective:
    """log p of the sampling distribution; the policy loss that `algorithm` names, with KL and entropy terms."""

    algorithm: AlgorithmConfig
    temperature: float
    distillation: DistillationConfig | None = None
    scalar = False

    def load(self, encoder: Encoder, path: Path, dtype: torch.dtype) -> HeadedModel:
        return load_policy(encoder.adapter, path, dtype)

    def reader(self, encoder: Encoder) -> Reader:
        return ResponseLogprobs(encoder, self.temperature)

    def loss_reader(self, encoder: Encoder) -> Reader:
        read, entropy = ResponseLogprobs(encoder, self.temperature), self.algorithm.entropy_coef > 0
        if self.distillation is not None:
            return WithTeachers(read, self.distillation, entropy)
        return read.with_entropy if entropy else read

    def beside(self, table: pa.Table) -> Beside | None:
        return None if self.distillation is None else partial(numbers_of, table)

    def loss(
        self, encoder: Encoder, table: pa.Table, denominator: float, kl_coef: float, noted: Noted | None = None
    ) -> LossFunction:
        algorithm, policy_loss = self.algorithm, POLICY_LOSSES[self.algorithm.policy_loss]
        clip = policy_clip(algorithm)

        def loss(output: Tensor, batch: Batch, rows: Sequence[int]) -> tuple[Tensor, Stats]:
            grids = _Grids(table, rows, output.device)
            columns = list(output.unbind(1)) if output.dim() == 2 else [output]
            flat, divergence = columns[0], columns[-1]
            entropy = columns[1] if algorithm.entropy_coef else None
            logprobs, mask = grids.grid(flat), grids.column("response_mask")
            old = grids.column("old_logprobs") if noted is None else logprobs.detach()
            if noted is not None:
                noted(rows, flat.detach())
            weights = token_weights(mask, algorithm.aggregation, old.dtype)
            corrected = weights * self._correction(mask, old, grids.column("rollout_logprobs"))
            total, stats = policy_loss(logprobs, old, grids.column("advantages"), mask, corrected, clip, denominator)
            # Not corrected: a token to which sampler and learner give different probabilities keeps its KL anchor.
            if algorithm.kl_in == "loss" and kl_coef:
                kl, kl_stats = kl_loss(
                    logprobs, grids.column("ref_logprobs"), mask, weights, algorithm.kl_estimator, denominator
                )
                total, stats = total + kl_coef * kl, stats | kl_stats
            if self.distillation is not None:
                far, far_stats = distillation_loss(grids.grid(divergence), mask, weights, denominator)
                total, stats = total + self.distillation.coef * far, stats | far_stats
            if entropy is not None:
                bonus, entropy_stats = entropy_bonus(grids.grid(entropy), mask, weights, denominator)
                total, stats = total - algorithm.entropy_coef * bonus, stats | entropy_stats
            return total, stats

        return loss

    def _correction(self, mask: Tensor, old_logprobs: Tensor, rollout_logprobs: Tensor) -> Tensor:
        """Weight of each token in the policy loss by how far sampler and learner differ on it."""
        mismatch = self.algorithm.mismatch
        return mismatch_weights(old_logprobs, rollout_logprobs, mask, mismatch.correction, mismatch.low, mismatch.high)


def policy_clip(algorithm: AlgorithmConfig) -> Clip:
    """The clip ranges of a configuration; without `clip_range` a bound from above alone, or none."""
    low = algorithm.clip_range
    return Clip(low, low if algorithm.clip_range_high is None else algorithm.clip_range_high, algorithm.dual_clip)


@dataclass(frozen=True)
class CriticObjective:
    """V of the state before each response token; PPO's clipped value loss. Starts from a reward model, or from a
    language model with a head of zeros."""

    algorithm: AlgorithmConfig
    scalar = True

    def load(self, encoder: Encoder, path: Path, dtype: torch.dtype) -> HeadedModel:
        return load_critic(encoder.adapter, path, dtype)

    def reader(self, encoder: Encoder) -> Reader:
        return _values

    def loss_reader(self, encoder: Encoder) -> Reader:
        return _values

    def beside(self, table: pa.Table) -> Beside | None:
        return None

    def loss(
        self, encoder: Encoder, table: pa.Table, denominator: float, kl_coef: float, noted: Noted | None = None
    ) -> LossFunction:
        def loss(output: Tensor, batch: Batch, rows: Sequence[int]) -> tuple[Tensor, Stats]:
            grids = _Grids(table, rows, output.device)
            values = grids.grid(output)
            old, returns, mask = (grids.column(name) for name in ("values", "returns", "response_mask"))
            value, stats = ppo_value_loss(values, old, returns, mask, self.algorithm.value_clip_range, denominator)
            return value * self.algorithm.vf_coef, stats

        return loss


def _values(output: Tensor, _: Tensor) -> Tensor:
    return output[:, 0].float()
