"""Log-probabilities and entropy of the sampling distribution, from logits, without keeping a second [N, V] tensor."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

_ROWS = 1024

T = TypeVar("T")


def token_logprobs(
    logits: Tensor, token_ids: Tensor, temperature: float = 1.0, banned: Tensor | None = None, rows: int = _ROWS
) -> Tensor:
    """log p(token_ids) [N] in float32 (float64 stays float64) under softmax(logits / temperature), banned ids at −∞.

    logits [N, V] of any float type, token_ids int64 [N], banned int64 [K]: ids the sampler may not emit; they get no
    probability here either, so that both sides model one distribution. A banned id in `token_ids` gives −∞.
    Computed `rows` rows at a time and recomputed in the backward pass: besides the logits themselves, at most
    `rows` × V float32 numbers are alive.
    """
    _check(logits, token_ids, temperature)
    parts = [
        _recomputed(_logprobs_of_rows, part, ids, temperature, banned)
        for part, ids in zip(logits.split(rows), token_ids.split(rows), strict=True)
    ]
    return torch.cat(parts)


def token_logprobs_and_entropy(
    logits: Tensor, token_ids: Tensor, temperature: float = 1.0, banned: Tensor | None = None, rows: int = _ROWS
) -> tuple[Tensor, Tensor]:
    """`token_logprobs`, and the entropy [N] in nats of the same distribution, H = log Σ exp z − Σ p·z."""
    _check(logits, token_ids, temperature)
    parts = [
        _recomputed(_both_of_rows, part, ids, temperature, banned)
        for part, ids in zip(logits.split(rows), token_ids.split(rows), strict=True)
    ]
    return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])


def _check(logits: Tensor, token_ids: Tensor, temperature: float) -> None:
    if logits.dim() != 2 or token_ids.shape != logits.shape[:1]:
        raise ValueError(
            f"logits and token_ids expect shapes [N, V] and [N], got {list(logits.shape)} and {list(token_ids.shape)}"
        )
    if not temperature > 0:
        raise ValueError(f"temperature expects a positive number, got {temperature}")


def _recomputed(
    function: Callable[[Tensor, Tensor, float, Tensor | None], T],
    logits: Tensor,
    token_ids: Tensor,
    temperature: float,
    banned: Tensor | None,
) -> T:
    if not (torch.is_grad_enabled() and logits.requires_grad):
        return function(logits, token_ids, temperature, banned)
    result: T = checkpoint(
        function, logits, token_ids, temperature, banned, use_reentrant=False, preserve_rng_state=False
    )
    return result


def scaled_logits(logits: Tensor, temperature: float, banned: Tensor | None) -> Tensor:
    """Logits [N, V] divided by the temperature, in float32 (float64 stays float64), banned ids at −∞."""
    scaled = logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature
    return scaled if banned is None else scaled.index_fill_(1, banned, -torch.inf)


def _logprobs_of_rows(logits: Tensor, token_ids: Tensor, temperature: float, banned: Tensor | None) -> Tensor:
    scaled = scaled_logits(logits, temperature, banned)
    return scaled.gather(1, token_ids[:, None]).squeeze(1) - scaled.logsumexp(dim=1)


def _both_of_rows(
    logits: Tensor, token_ids: Tensor, temperature: float, banned: Tensor | None
) -> tuple[Tensor, Tensor]:
    scaled = scaled_logits(logits, temperature, banned)
    normaliser = scaled.logsumexp(dim=1)
    logprobs = scaled.gather(1, token_ids[:, None]).squeeze(1) - normaliser
    # 0 · −∞ would be NaN: a banned id has p = 0 and adds nothing.
    finite = scaled if banned is None else scaled.index_fill(1, banned, 0.0)
    entropy = normaliser - (scaled.softmax(dim=1) * finite).sum(dim=1)
    return logprobs, entropy
