"""The loss of a reward model over segments of behaviour, from votes on which of two is better."""

import torch
from torch import Tensor

from mmrlhf_ray.algorithms.aggregation import check_denominator


def segment_preference_loss(
    first: Tensor, second: Tensor, preferred: Tensor, noise: float, denominator: float, weights: Tensor | None = None
) -> Tensor:
    """Σ w·[−μ·log P − (1 − μ)·log(1 − P)] / denominator with P = (1 − noise)·σ(Σ first − Σ second) + noise/2.

    first, second [P, T]: predicted rewards of the steps of each pair's segments. preferred [P] in 0…1: μ, 1 where the
    first is better, 0.5 for a tie. noise: share of votes taken to be random. weights [P]: w, 1 unless given.
    Source: Christiano et al. 2017, "Deep Reinforcement Learning from Human Preferences", section 2.2.3.
    Raises ValueError where shapes differ or noise is not in [0, 1).
    """
    if first.shape != second.shape or first.dim() != 2 or preferred.shape != first.shape[:1]:
        raise ValueError(
            f"expected first and second of one shape [P, T] and preferred [P], got {tuple(first.shape)}, "
            f"{tuple(second.shape)}, {tuple(preferred.shape)}"
        )
    if not 0 <= noise < 1:
        raise ValueError(f"noise expects a share from 0 to below 1, got {noise}")
    check_denominator(denominator)
    difference = first.sum(-1) - second.sum(-1)
    better, worse = (_log_mixed(sign * difference, noise) for sign in (1.0, -1.0))
    per_pair = -preferred * better - (1.0 - preferred) * worse
    return (per_pair if weights is None else weights * per_pair).sum() / denominator


def _log_mixed(difference: Tensor, noise: float) -> Tensor:
    """log((1 − noise)·σ(difference) + noise/2), finite for any difference."""
    certain = torch.nn.functional.logsigmoid(difference)
    if noise == 0.0:
        return certain
    share = torch.tensor(noise, dtype=difference.dtype)
    return torch.logaddexp(torch.log1p(-share) + certain, torch.log(share / 2).expand_as(certain))
