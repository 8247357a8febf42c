"""How token losses add up to the loss of a mini-batch: a weight per token, one denominator for all ranks; and the shape
checks that all losses share.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


def check_tokens(mask: Tensor, **tensors: Tensor) -> None:
    """Raise ValueError unless `mask` is bool [B, T] and every named tensor has its shape."""
    if mask.dtype != torch.bool:
        raise ValueError(f"mask expects dtype bool, got {mask.dtype}")
    if mask.dim() != 2:
        raise ValueError(f"mask expects shape [B, T], got {list(mask.shape)}")
    for name, tensor in tensors.items():
        if tensor.shape != mask.shape:
            raise ValueError(f"{name} expects the mask's shape {list(mask.shape)}, got {list(tensor.shape)}")


def check_denominator(denominator: float) -> None:
    """Raise ValueError unless `denominator` is positive."""
    if not denominator > 0:
        raise ValueError(f"denominator expects a positive number, got {denominator}")


@dataclass(frozen=True)
class Aggregation:
    """A weight for the tokens of a row, which depends on that row alone, and what the weighted sum is divided by."""

    row_weight: Callable[[Tensor], Tensor]
    """Tokens of each row [B], at least 1 → weight of each of them [B]."""
    denominator: Callable[[Sequence[int], int], float]
    """(Tokens of every non-empty row, max_response_tokens) → denominator."""


AGGREGATIONS: Mapping[str, Aggregation] = {
    "token_mean": Aggregation(torch.ones_like, lambda rows, _: float(sum(rows))),
    "sequence_mean": Aggregation(torch.reciprocal, lambda rows, _: float(len(rows))),
    "constant_length": Aggregation(torch.ones_like, lambda rows, longest: float(len(rows) * longest)),
}


def token_weights(mask: Tensor, aggregation: str, dtype: torch.dtype = torch.float32) -> Tensor:
    """Weight [B, T] of each token's loss; zero where the mask is false. mask bool [B, T], one response per row.

    token_mean: 1, every token alike (Yu et al. 2025, DAPO, section 3.3). sequence_mean: 1 / tokens of the row, every
    response alike (Shao et al. 2024, GRPO, equation 3). constant_length: 1 (Liu et al. 2025, Dr. GRPO, section 3.2).
    A row's weights do not depend on other rows, so neither shards nor micro-batches change them.
    """
    check_tokens(mask)
    tokens = mask.sum(dim=1).clamp(min=1).to(dtype)
    return mask * _named(aggregation).row_weight(tokens)[:, None]


def loss_denominator(row_tokens: Sequence[int], aggregation: str, max_response_tokens: int) -> float:
    """The number that the weighted sum of a mini-batch's token losses is divided by, the same number on all ranks.

    `row_tokens`: masked tokens of each response of the entire mini-batch. token_mean: their sum; sequence_mean: how
    many responses have tokens; constant_length: that many times `max_response_tokens`.
    Raises ValueError when no response has tokens.
    """
    rows = [n for n in row_tokens if n > 0]
    if not rows:
        raise ValueError(f"row_tokens expects a row with at least one token, got {list(row_tokens)}")
    return _named(aggregation).denominator(rows, max_response_tokens)


def _named(aggregation: str) -> Aggregation:
    if aggregation not in AGGREGATIONS:
        raise ValueError(f"aggregation expects one of {sorted(AGGREGATIONS)}, got {aggregation!r}")
    return AGGREGATIONS[aggregation]
