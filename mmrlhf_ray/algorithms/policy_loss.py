"""The clipped PPO objective and the entropy bonus."""

import torch
from torch import Tensor

from mmrlhf_ray.algorithms.checks import check_denominator, check_tokens
from mmrlhf_ray.algorithms.stats import Stats


def ppo_policy_loss(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor, clip_range: float, denominator: float
) -> tuple[Tensor, Stats]:
    """Clipped surrogate loss: Σ over masked tokens of max(−A·ρ, −A·clip(ρ, 1±clip_range)) / denominator.

    ρ = exp(logprobs − old_logprobs); all tensors [B, T], mask bool. Gradient flows to `logprobs` only.
    `denominator` is the number of tokens in the whole mini-batch over all ranks and micro-batches, so that adding
    up the losses (and summing, not averaging, gradients over ranks) never depends on how the batch was cut.
    Source: Schulman et al. 2017, "Proximal Policy Optimization Algorithms", equation 7.

    Statistics, sums over the tokens: `tokens`, `policy_loss`, `clip_fraction` (tokens whose clipped term is the
    larger), `approx_kl` (k3 of old to current, nats), `ratio`; and `ratio_max`.
    """
    check_tokens(mask, logprobs=logprobs, old_logprobs=old_logprobs, advantages=advantages)
    check_denominator(denominator)
    advantages = advantages.detach()
    # Masked before exp(), so that padding can neither overflow nor put NaN into the gradient.
    log_ratio = torch.where(mask, logprobs - old_logprobs.detach(), torch.zeros_like(logprobs))
    ratio = log_ratio.exp()
    unclipped = -advantages * ratio
    clipped = -advantages * ratio.clamp(1.0 - clip_range, 1.0 + clip_range)
    zeros = torch.zeros_like(unclipped)
    total = torch.where(mask, torch.maximum(unclipped, clipped), zeros).sum()
    with torch.no_grad():
        stats = {
            "tokens": mask.sum().to(total.dtype),
            "policy_loss": total.detach(),
            "clip_fraction": (mask & (clipped > unclipped)).sum().to(total.dtype),
            "approx_kl": (torch.expm1(log_ratio) - log_ratio).sum(),
            "ratio": torch.where(mask, ratio, zeros).sum(),
            "ratio_max": torch.where(mask, ratio, zeros).max() if mask.numel() else total.new_zeros(()),
        }
    return total / denominator, stats


def entropy_bonus(entropy: Tensor, mask: Tensor, denominator: float) -> tuple[Tensor, Stats]:
    """Σ over masked tokens of `entropy` [B, T] (nats) / denominator; subtract entropy_coef times it from the loss.

    Statistics: `entropy`, the sum over the tokens. Source: Schulman et al. 2017, equation 9.
    """
    check_tokens(mask, entropy=entropy)
    check_denominator(denominator)
    total = torch.where(mask, entropy, torch.zeros_like(entropy)).sum()
    return total / denominator, {"entropy": total.detach()}
