"""From scores to advantages: per-token rewards, generalised advantage estimation, whitening."""

import torch
from torch import Tensor

from mmrlhf_ray.algorithms.checks import check_tokens


def token_rewards(scores: Tensor, kl: Tensor, mask: Tensor, kl_coef: float) -> Tensor:
    """Rewards [B, T]: −kl_coef · kl at each response token, plus the row's score at its last one.

    scores [B], kl [B, T] in nats, mask bool [B, T]. Zero where the mask is false.
    Source: Ziegler et al. 2019, section 2.2, R = r − β·log(π/ρ), spread over the tokens.
    Raises ValueError when a row has no response token, since its score would be lost.
    """
    check_tokens(mask, kl=kl)
    if scores.shape != mask.shape[:1]:
        raise ValueError(f"scores expects shape {[mask.shape[0]]}, got {list(scores.shape)}")
    empty = (~mask.any(dim=1)).nonzero().flatten().tolist()
    if empty:
        raise ValueError(f"mask expects at least one response token in every row; rows {empty} have none")
    rewards = torch.where(mask, -kl_coef * kl, torch.zeros_like(kl))
    positions = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
    last = positions.masked_fill(~mask, -1).max(dim=1).values
    rows = torch.arange(mask.shape[0], device=mask.device)
    rewards[rows, last] += scores.to(rewards.dtype)
    return rewards


@torch.no_grad()
def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, gae_lambda: float) -> tuple[Tensor, Tensor]:
    """Advantages and returns, each [B, T], zero where the mask is false.

    δ_t = r_t + γ·V_{t+1} − V_t;  A_t = δ_t + γλ·A_{t+1};  return_t = A_t + V_t, with V = A = 0 after the last
    response token (every response ends the episode). "t+1" is the next response token of the row: positions
    that the mask leaves out, wherever they are, are stepped over.
    Source: Schulman et al. 2016, "High-Dimensional Continuous Control Using Generalized Advantage Estimation".
    """
    check_tokens(mask, rewards=rewards, values=values)
    advantages = torch.zeros_like(values)
    next_value = torch.zeros_like(values[:, 0])
    next_advantage = torch.zeros_like(next_value)
    for t in range(mask.shape[1] - 1, -1, -1):
        on = mask[:, t]
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        next_advantage = torch.where(on, delta + gamma * gae_lambda * next_advantage, next_advantage)
        next_value = torch.where(on, values[:, t], next_value)
        advantages[:, t] = torch.where(on, next_advantage, torch.zeros_like(next_advantage))
    returns = torch.where(mask, advantages + values, torch.zeros_like(values))
    return advantages, returns


def whiten(x: Tensor, mask: Tensor, eps: float = 1e-8) -> Tensor:
    """(x − mean) / sqrt(var + eps), mean and population variance over the masked entries; zero elsewhere.

    Call it on a whole step's tensor, not on a shard, else the result depends on the sharding.
    Raises ValueError when nothing is masked in.
    """
    check_tokens(mask, x=x)
    if not bool(mask.any()):
        raise ValueError("mask expects at least one true entry, got none")
    kept = x[mask]
    mean = kept.mean()
    scale = torch.rsqrt((kept - mean).square().mean() + eps)
    return torch.where(mask, (x - mean) * scale, torch.zeros_like(x))
