"""Sampler and learner give a token slightly different probabilities: how different, and what is done about it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mmrlhf_ray.algorithms.aggregation import check_tokens
from mmrlhf_ray.algorithms.kl import kl_estimate
from mmrlhf_ray.algorithms.segments import check_rows, row_sums, spread
from mmrlhf_ray.algorithms.statistics import Stats

_NOTICEABLE = 0.01

Correction = Callable[[Tensor, Tensor, float, float], Tensor]
"""(log ratio [B, T], zero outside the mask; mask; low; high) → weight of each token [B, T]."""


def _none(log_ratio: Tensor, mask: Tensor, low: float, high: float) -> Tensor:
    return torch.ones_like(log_ratio)


def _tis(log_ratio: Tensor, mask: Tensor, low: float, high: float) -> Tensor:
    return log_ratio.exp().clamp(max=high)


def _icepop(log_ratio: Tensor, mask: Tensor, low: float, high: float) -> Tensor:
    ratio = log_ratio.exp()
    return torch.where((ratio >= low) & (ratio <= high), ratio, torch.zeros_like(ratio))


def _sequence_mask(log_ratio: Tensor, mask: Tensor, low: float, high: float) -> Tensor:
    tokens = mask.sum(dim=1, keepdim=True).clamp(min=1)
    ratio = (log_ratio.sum(dim=1, keepdim=True) / tokens).exp()
    return ((ratio >= low) & (ratio <= high)).to(log_ratio.dtype).expand_as(log_ratio)


CORRECTIONS: Mapping[str, Correction] = {
    "none": _none,
    "tis": _tis,
    "icepop": _icepop,
    "sequence_mask": _sequence_mask,
}

OF_RESPONSES = frozenset({"sequence_mask"})
"""Corrections that weigh a response by the mean of its log ratios; the others weigh each token by its own."""


@torch.no_grad()
def mismatch_weights(
    old_logprobs: Tensor, rollout_logprobs: Tensor, mask: Tensor, correction: str, low: float, high: float
) -> Tensor:
    """Weights [B, T] that bring what the sampler drew closer to what the learner would have drawn; zero off the mask.

    With r = exp(old_logprobs − rollout_logprobs), learner over sampler, all [B, T], mask bool, a response per row:
    none: 1. tis: min(r, high). icepop: r where low ≤ r ≤ high, else 0. sequence_mask: 1 in rows whose
    exp(mean of log r) is in [low, high], 0 in the others.
    They multiply `token_weights` in the policy loss, not in the KL and entropy terms, which hold on to tokens that a
    correction masks; the denominator stays: what is masked still counts there.
    Sources: tis: Yao et al. 2025, "Your Efficient RL Framework Secretly Brings You Off-Policy RL Training"; icepop:
    Ling Team 2025, "Every Step Evolves: Scaling Reinforcement Learning for Trillion-Scale Thinking Model" (IcePop);
    sequence_mask: Liu et al. 2025, "When Speed Kills Stability" (sequence masking, with the geometric mean).
    """
    check_tokens(mask, old_logprobs=old_logprobs, rollout_logprobs=rollout_logprobs)
    log_ratio = torch.where(mask, old_logprobs - rollout_logprobs, torch.zeros_like(old_logprobs))
    return _named(correction)(log_ratio, mask, low, high) * mask


@torch.no_grad()
def flat_mismatch_weights(
    old_logprobs: Tensor, rollout_logprobs: Tensor, lengths: Tensor, correction: str, low: float, high: float
) -> Tensor:
    """`mismatch_weights` [N] of flat tokens: both log-probabilities [N], lengths int64 [B] of the rows."""
    check_rows(lengths, old_logprobs=old_logprobs, rollout_logprobs=rollout_logprobs)
    log_ratio, of_rows = old_logprobs - rollout_logprobs, correction in OF_RESPONSES
    if of_rows:
        log_ratio = row_sums(log_ratio, lengths) / lengths
    each = log_ratio[:, None]  # to a correction it is a response of one token
    weights = _named(correction)(each, torch.ones_like(each, dtype=torch.bool), low, high)[:, 0]
    return spread(weights, lengths) if of_rows else weights


def _named(correction: str) -> Correction:
    if correction not in CORRECTIONS:
        raise ValueError(f"correction expects one of {sorted(CORRECTIONS)}, got {correction!r}")
    return CORRECTIONS[correction]


@torch.no_grad()
def mismatch_stats(old_logprobs: Tensor, rollout_logprobs: Tensor, weights: Tensor) -> Stats:
    """How far apart sampler and learner are over tokens [N] that are trained on, to be merged and divided by `tokens`
    (`merge_stats`, `mean_stats`).

    `mismatch_max`, `mismatch_mean`: of |old_logprobs − rollout_logprobs|, nats. `mismatch_kl`: k3 estimate of
    KL(sampler ‖ learner), unbiased since the sampler drew the tokens. `corrected`: tokens whose weight is more than
    1 % away from 1; `corrected_to_zero`: those that the correction masks.
    """
    if not old_logprobs.shape == rollout_logprobs.shape == weights.shape:
        shapes = [list(x.shape) for x in (old_logprobs, rollout_logprobs, weights)]
        raise ValueError(f"old_logprobs, rollout_logprobs and weights expect one shape [N], got {shapes}")
    if not len(old_logprobs):
        raise ValueError("old_logprobs expects at least one token, got none")
    gap = (old_logprobs - rollout_logprobs).abs()
    return {
        "tokens": gap.new_tensor(float(len(gap))),
        "mismatch_max": gap.max(),
        "mismatch_mean": gap.sum(),
        "mismatch_kl": kl_estimate(rollout_logprobs, old_logprobs, "k3").sum(),
        "corrected": ((weights - 1.0).abs() > _NOTICEABLE).sum().to(gap.dtype),
        "corrected_to_zero": (weights == 0).sum().to(gap.dtype),
    }


@dataclass(frozen=True)
class Gap:
    """How far apart two log-probabilities of the same tokens are; nats."""

    tokens: int
    mean: float
    """Of the distance."""
    kl: float
    """k3 estimate of KL(first ‖ second) per token, where the first one's model drew the tokens."""
    outliers: float
    """Share of the tokens whose distance is beyond the one that was asked for."""
    largest: float


def gap(first: Tensor, second: Tensor, outlier: float) -> Gap:
    """Of log-probabilities [N] each, in nats; `outlier`: distance beyond which a token is one. What is not a number in
    either is one in `mean`, `kl` and `largest` as well."""
    if first.shape != second.shape or not len(first):
        raise ValueError(f"expects two times one shape [N], N ≥ 1, got {list(first.shape)} and {list(second.shape)}")
    first, second = first.double(), second.double()
    distance = (first - second).abs()
    kl = kl_estimate(first, second, "k3")
    beyond = (distance > outlier).double().mean()
    return Gap(len(first), float(distance.mean()), float(kl.mean()), float(beyond), float(distance.max()))
