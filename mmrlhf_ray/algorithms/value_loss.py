"""The critic's clipped squared error."""

import torch
from torch import Tensor

from mmrlhf_ray.algorithms.checks import check_denominator, check_tokens
from mmrlhf_ray.algorithms.stats import Stats


def ppo_value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, value_clip_range: float, denominator: float
) -> tuple[Tensor, Stats]:
    """Σ over masked tokens of ½·max((V − R)², (clip(V, V_old ± value_clip_range) − R)²) / denominator.

    All tensors [B, T], mask bool; gradient flows to `values` only. `denominator` as in `ppo_policy_loss`.
    Source: the value clipping of the PPO implementation that goes with Schulman et al. 2017 (see Engstrom et al.
    2020, "Implementation Matters in Deep Policy Gradients", section 3).

    Statistics, sums over the tokens: `value_tokens`, `value_loss`, `value_clip_fraction`, `value_error` ((V − R)²),
    `value`, `return`, `return_square` (the last two give the explained variance).
    """
    check_tokens(mask, values=values, old_values=old_values, returns=returns)
    check_denominator(denominator)
    zeros = torch.zeros_like(values)
    values = torch.where(mask, values, zeros)
    old_values = torch.where(mask, old_values.detach(), zeros)
    returns = torch.where(mask, returns.detach(), zeros)
    near = values.clamp(old_values - value_clip_range, old_values + value_clip_range)
    unclipped = (values - returns).square()
    clipped = (near - returns).square()
    total = 0.5 * torch.where(mask, torch.maximum(unclipped, clipped), zeros).sum()
    with torch.no_grad():
        stats = {
            "value_tokens": mask.sum().to(total.dtype),
            "value_loss": total.detach(),
            "value_clip_fraction": (mask & (clipped > unclipped)).sum().to(total.dtype),
            "value_error": unclipped.sum(),
            "value": values.sum(),
            "return": returns.sum(),
            "return_square": returns.square().sum(),
        }
    return total / denominator, stats
