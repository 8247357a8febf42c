"""What a Ray Train job trains: a policy on demonstrations, or a reward model on preferences."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import torch
from torch import Tensor

from mmrlhf_ray.algorithms.logprobs import token_logprobs
from mmrlhf_ray.algorithms.reward_loss import bradley_terry_loss
from mmrlhf_ray.algorithms.sft_loss import sft_loss
from mmrlhf_ray.algorithms.stats import Stats
from mmrlhf_ray.data.collate import Batch
from mmrlhf_ray.data.encode import Encoder
from mmrlhf_ray.models import HeadedModel, load_policy, load_scalar
from mmrlhf_ray.training.passes import LossFunction


class SupervisedTask(Protocol):
    """One kind of supervised training."""

    scalar: bool
    """Whether the head is a scalar one, read at each sequence's last token."""
    responses_per_row: int

    def load(self, encoder: Encoder, path: Path, dtype: torch.dtype) -> HeadedModel: ...

    def weight(self, rows: pa.Table) -> int:
        """What these rows add to the loss's denominator."""

    def loss(self, encoder: Encoder, rows: pa.Table, denominator: float) -> LossFunction:
        """Loss over passes whose sequences are the rows' responses, `responses_per_row` after one another."""

    def metrics(self, stats: Mapping[str, float]) -> dict[str, float]:
        """What to report of statistics merged over passes and ranks."""


@dataclass(frozen=True)
class SFTTask:
    """Negative log-likelihood of demonstrations."""

    scalar = False
    responses_per_row = 1

    def load(self, encoder: Encoder, path: Path, dtype: torch.dtype) -> HeadedModel:
        return load_policy(encoder.adapter, path, dtype)

    def weight(self, rows: pa.Table) -> int:
        return sum(len(r) for responses in rows.column("responses_token_ids").to_pylist() for r in responses)

    def loss(self, encoder: Encoder, rows: pa.Table, denominator: float) -> LossFunction:
        def loss(output: Tensor, batch: Batch, _: Sequence[int]) -> tuple[Tensor, Stats]:
            banned = torch.tensor(encoder.banned_token_ids, dtype=torch.long, device=output.device)
            logprobs = token_logprobs(output, batch.response_tokens, 1.0, banned)[None]
            return sft_loss(logprobs, torch.ones_like(logprobs, dtype=torch.bool), denominator)

        return loss

    def metrics(self, stats: Mapping[str, float]) -> dict[str, float]:
        return {"loss": stats["nll"] / stats["tokens"], "response_tokens": stats["tokens"]}


@dataclass(frozen=True)
class RewardModelTask:
    """Bradley–Terry on chosen and rejected responses."""

    label_smoothing: float
    center_coef: float
    scalar = True
    responses_per_row = 2

    def load(self, encoder: Encoder, path: Path, dtype: torch.dtype) -> HeadedModel:
        return load_scalar(encoder.adapter, path, dtype, new_head=True)

    def weight(self, rows: pa.Table) -> int:
        return len(rows)

    def loss(self, encoder: Encoder, rows: pa.Table, denominator: float) -> LossFunction:
        def loss(output: Tensor, batch: Batch, sequences: Sequence[int]) -> tuple[Tensor, Stats]:
            scores = output[:, 0].float()
            return bradley_terry_loss(
                scores[0::2],
                scores[1::2],
                denominator,
                label_smoothing=self.label_smoothing,
                center_coef=self.center_coef,
            )

        return loss

    def metrics(self, stats: Mapping[str, float]) -> dict[str, float]:
        pairs = stats["pairs"]
        return {"loss": stats["reward_loss"] / pairs, "pair_accuracy": stats["pair_accuracy"] / pairs}
