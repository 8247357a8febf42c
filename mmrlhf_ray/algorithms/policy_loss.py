"""Losses of the policy: PPO's clipped objective, GSPO's and CISPO's, and the entropy bonus."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mmrlhf_ray.algorithms.aggregation import check_denominator, check_tokens
from mmrlhf_ray.algorithms.kl import bounded_exp, kl_estimate
from mmrlhf_ray.algorithms.statistics import Stats


@dataclass(frozen=True)
class Clip:
    """Bounds on the ratio ρ of current to old probabilities: 1 − low ≤ ρ ≤ 1 + high; None = no bound on that side.

    Whatever the bounds, a ρ beyond e^20 or e^-20 counts as that (`bounded_exp`).
    """

    low: float | None
    high: float | None
    dual: float | None = None
    """Bound on a token's loss in units of |A| where A < 0, above 1; None = no bound."""

    def __call__(self, ratio: Tensor) -> Tensor:
        """`ratio`, clipped."""
        if self.low is not None:
            ratio = ratio.clamp(min=1.0 - self.low)
        if self.high is not None:
            ratio = ratio.clamp(max=1.0 + self.high)
        return ratio


PolicyLoss = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Clip, float], tuple[Tensor, Stats]]
"""(logprobs, old_logprobs, advantages, mask, weights, clip, denominator) → (loss, stats).

All tensors [B, T], one response per row; mask bool. `weights` ≥ 0: `token_weights`, times `mismatch_weights` (of this
loss alone: the KL and entropy terms take `token_weights`).
Gradient flows to `logprobs` only. `denominator` is `loss_denominator` of the entire mini-batch over all ranks and
micro-batches, so that adding up the losses (and summing, not averaging, gradients over ranks) never depends on how
the rows were divided.

Statistics, unweighted sums over the tokens unless stated otherwise: `tokens`, `policy_loss` (weighted: the loss times
the denominator), `clip_fraction` (tokens whose gradient the clipping stops or changes), `approx_kl` (k3 of old to
current, nats), `ratio` (ρ as the loss has it: of the token, or of the response in GSPO); and `ratio_max`.
"""


def ppo_policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    weights: Tensor,
    clip: Clip,
    denominator: float,
) -> tuple[Tensor, Stats]:
    """Clipped surrogate loss: Σ over masked tokens of w·max(−A·ρ, −A·clip(ρ, 1 − low, 1 + high)) / denominator.

    ρ = exp(logprobs − old_logprobs). With `clip.dual`, where A < 0, a token's term is at most −A·dual.
    Without bounds and with one pass over the data it is the plain policy gradient (A2C).
    Arguments and statistics: see `PolicyLoss`.
    Sources: Schulman et al. 2017, "Proximal Policy Optimization Algorithms", equation 7; bounds of different size:
    Yu et al. 2025, DAPO, section 3.1; dual clip: Ye et al. 2020, "Mastering Complex Control in MOBA Games with Deep
    Reinforcement Learning".
    """
    _check(logprobs, old_logprobs, advantages, mask, weights, denominator)
    log_ratio = _log_ratio(logprobs, old_logprobs, mask)
    ratio = bounded_exp(log_ratio)
    per_token, changed = _surrogate(ratio, _masked(advantages, mask), clip)
    return _reduced(per_token, mask, weights, denominator, _Report(log_ratio, ratio, changed))


def gspo_policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    weights: Tensor,
    clip: Clip,
    denominator: float,
) -> tuple[Tensor, Stats]:
    """`ppo_policy_loss` with one ratio per response: s = exp(mean over its tokens of logprobs − old_logprobs).

    Σ over masked tokens of w·max(−A·s, −A·clip(s, 1 − low, 1 + high)) / denominator. The gradient goes through s, so
    to every token of the row alike. A row must be one complete response: never pack or cut rows for this loss.
    With sequence_mean and one advantage per response it is the paper's objective.
    Arguments and statistics: see `PolicyLoss`.
    Source: Zheng et al. 2025, "Group Sequence Policy Optimization", equations 5 to 7.
    """
    _check(logprobs, old_logprobs, advantages, mask, weights, denominator)
    log_ratio = _log_ratio(logprobs, old_logprobs, mask)
    tokens = mask.sum(dim=1, keepdim=True).clamp(min=1)
    ratio = bounded_exp(log_ratio.sum(dim=1, keepdim=True) / tokens).expand_as(log_ratio)
    per_token, changed = _surrogate(ratio, _masked(advantages, mask), clip)
    return _reduced(per_token, mask, weights, denominator, _Report(log_ratio, ratio, changed))


def cispo_policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    weights: Tensor,
    clip: Clip,
    denominator: float,
) -> tuple[Tensor, Stats]:
    """Policy gradient with clipped importance weights: −Σ w·sg[clip(ρ, 1 − low, 1 + high)]·A·logprobs / denominator.

    ρ = exp(logprobs − old_logprobs); sg stops the gradient: clipped tokens keep theirs, only its size is bounded. The
    loss has no meaning beyond its gradient. Arguments and statistics: see `PolicyLoss`.
    Raises ValueError for a `clip.dual`, which CISPO does not support.
    Source: MiniMax 2025, "MiniMax-M1: Scaling Test-Time Compute Efficiently with Lightning Attention", equations 4, 5.
    """
    _check(logprobs, old_logprobs, advantages, mask, weights, denominator)
    if clip.dual is not None:
        raise ValueError(f"clip.dual expects None, CISPO's weights are bounded by clip.high; got {clip.dual}")
    log_ratio = _log_ratio(logprobs, old_logprobs, mask)
    ratio = bounded_exp(log_ratio.detach())
    clipped = clip(ratio)
    per_token = -clipped * _masked(advantages, mask) * torch.where(mask, logprobs, torch.zeros_like(logprobs))
    return _reduced(per_token, mask, weights, denominator, _Report(log_ratio, ratio, clipped != ratio))


POLICY_LOSSES: Mapping[str, PolicyLoss] = {
    "ppo": ppo_policy_loss,
    "gspo": gspo_policy_loss,
    "cispo": cispo_policy_loss,
}


def entropy_bonus(entropy: Tensor, mask: Tensor, weights: Tensor, denominator: float) -> tuple[Tensor, Stats]:
    """Σ over masked tokens of w·`entropy` [B, T] (nats) / denominator; subtract entropy_coef times it from the loss.

    `weights` and `denominator` as in `PolicyLoss`. Statistics: `entropy`, the unweighted sum over the tokens.
    Source: Schulman et al. 2017, equation 9.
    """
    check_tokens(mask, entropy=entropy, weights=weights)
    check_denominator(denominator)
    kept = torch.where(mask, entropy, torch.zeros_like(entropy))
    return (_masked(weights, mask).to(kept.dtype) * kept).sum() / denominator, {"entropy": kept.detach().sum()}


@dataclass(frozen=True)
class _Report:
    """Inputs of the statistics; all [B, T]."""

    log_ratio: Tensor
    ratio: Tensor
    changed: Tensor


def _check(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor, weights: Tensor, denominator: float
) -> None:
    check_tokens(mask, logprobs=logprobs, old_logprobs=old_logprobs, advantages=advantages, weights=weights)
    check_denominator(denominator)


def _masked(x: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, x.detach(), torch.zeros_like(x))


def _log_ratio(logprobs: Tensor, old_logprobs: Tensor, mask: Tensor) -> Tensor:
    # Masked before exp(), so that padding can neither overflow nor put NaN into the gradient.
    return torch.where(mask, logprobs - old_logprobs.detach(), torch.zeros_like(logprobs))


def _surrogate(ratio: Tensor, advantages: Tensor, clip: Clip) -> tuple[Tensor, Tensor]:
    """Loss of each token, and which of them a bound changed."""
    unclipped = -advantages * ratio
    bounded = torch.maximum(unclipped, -advantages * clip(ratio))
    if clip.dual is not None:
        bounded = torch.where(advantages < 0, torch.minimum(bounded, -advantages * clip.dual), bounded)
    return bounded, bounded != unclipped


def _reduced(
    per_token: Tensor, mask: Tensor, weights: Tensor, denominator: float, report: _Report
) -> tuple[Tensor, Stats]:
    total = (_masked(weights, mask).to(per_token.dtype) * per_token).sum()
    with torch.no_grad():
        ratio = torch.where(mask, report.ratio, torch.zeros_like(report.ratio))
        stats = {
            "tokens": mask.sum().to(total.dtype),
            "policy_loss": total.detach(),
            "clip_fraction": (mask & report.changed).sum().to(total.dtype),
            "approx_kl": kl_estimate(-report.log_ratio, torch.zeros_like(ratio), "k3").sum(),
            "ratio": ratio.sum(),
            "ratio_max": ratio.max() if mask.numel() else total.new_zeros(()),
        }
    return total / denominator, stats
