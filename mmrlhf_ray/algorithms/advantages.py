"""From scores to advantages: overlong penalty, per-token rewards, estimators with and without a critic, whitening."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mmrlhf_ray.algorithms.aggregation import check_tokens

_STD_EPS = 1e-6


def token_rewards(scores: Tensor, kl: Tensor, mask: Tensor, kl_coef: float) -> Tensor:
    """Rewards [B, T]: −kl_coef · kl at each response token, plus the row's score at its last one.

    scores [B], kl [B, T] in nats, mask bool [B, T]. Zero where the mask is false.
    Source: Ziegler et al. 2019, section 2.2, R = r − β·log(π/ρ), spread over the tokens.
    Raises ValueError when a row has no response token, since its score would be lost.
    """
    check_tokens(mask, kl=kl)
    if scores.shape != mask.shape[:1]:
        raise ValueError(f"scores expects shape {[mask.shape[0]]}, got {list(scores.shape)}")
    _check_no_row_is_empty(mask)
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


AdvantageFunction = Callable[[Tensor, Tensor, Tensor, float], Tensor]
"""(rewards [B, T], mask bool [B, T], groups int64 [B], gamma) → advantages [B, T], zero where the mask is false.

`rewards` are those of `token_rewards`; a response's outcome is their sum over its tokens, undiscounted. `groups`
numbers the prompt that each row answers; groups may differ in size. Call them on entire steps: groups must be complete.
A row without any response token raises ValueError, since its outcome would be made up.
"""


@torch.no_grad()
def reinforce(rewards: Tensor, mask: Tensor, groups: Tensor, gamma: float) -> Tensor:
    """Discounted rewards-to-go, A_t = Σ_{k ≥ t} γ^{k−t}·r_k over the row's response tokens; `groups` is not used.

    It is `gae` with V = 0 and λ = 1, and steps over positions outside the mask as that does.
    Sources: Williams 1992, "Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning";
    Hu 2025, "REINFORCE++", whose advantages are the same, whitened over the step (the caller's `whiten`, mode "full").
    """
    _check_rows(rewards, mask, groups)
    return gae(rewards, torch.zeros_like(rewards), mask, gamma, 1.0)[0]


@torch.no_grad()
def group_centred(rewards: Tensor, mask: Tensor, groups: Tensor, gamma: float) -> Tensor:
    """Outcome minus the mean outcome of its group, at every token of the row; `gamma` is not used.

    Exactly 0 where a group's outcomes are all equal.
    Sources: Liu et al. 2025, "Understanding R1-Zero-Like Training" (Dr. GRPO), section 3.2; Hu 2025, "REINFORCE++"
    (with baseline), which then whitens over the step (the caller's `whiten`, mode "full").
    """
    _check_rows(rewards, mask, groups)
    return _Group.of(_outcomes(rewards, mask), groups).centred[:, None] * mask


@torch.no_grad()
def rloo(rewards: Tensor, mask: Tensor, groups: Tensor, gamma: float) -> Tensor:
    """Outcome minus the mean outcome of the others of its group, at every token; `gamma` is not used.

    With n responses to the prompt that is (outcome − group mean)·n / (n − 1).
    Source: Ahmadian et al. 2024, "Back to Basics: Revisiting REINFORCE Style Optimization for Learning from Human
    Feedback in LLMs". Raises ValueError when a group has one row.
    """
    _check_rows(rewards, mask, groups)
    group = _Group.of(_outcomes(rewards, mask), groups)
    alone = groups[group.size == 1].tolist()
    if alone:
        raise ValueError(f"groups expects at least two rows of every group, to compare; groups {alone} have one")
    return (group.centred * group.size / (group.size - 1))[:, None] * mask


@torch.no_grad()
def grpo(rewards: Tensor, mask: Tensor, groups: Tensor, gamma: float) -> Tensor:
    """(Outcome − group mean) / (group standard deviation + 1e-6), at every token of the row; `gamma` is not used.

    The standard deviation is the unbiased one. Exactly 0 where a group's outcomes are all equal, or it has one row.
    Source: Shao et al. 2024, "DeepSeekMath" (GRPO), section 4.1.2.
    """
    _check_rows(rewards, mask, groups)
    group = _Group.of(_outcomes(rewards, mask), groups)
    variance = group.mean_of(group.centred.square()) * group.size / (group.size - 1).clamp(min=1)
    return (group.centred / (variance.sqrt() + _STD_EPS))[:, None] * mask


ESTIMATORS: Mapping[str, AdvantageFunction] = {
    "reinforce": reinforce,
    "reinforce_pp": reinforce,
    "reinforce_pp_baseline": group_centred,
    "rloo": rloo,
    "grpo": grpo,
    "dr_grpo": group_centred,
}
"""The estimators that need no critic; `gae` is the one that does."""

WHITEN_DEFAULT: Mapping[str, str] = {
    "gae": "full",
    "reinforce": "none",
    "reinforce_pp": "full",
    "reinforce_pp_baseline": "full",
    "rloo": "none",
    "grpo": "none",
    "dr_grpo": "none",
}
"""`whiten` mode of each estimator's paper."""


@torch.no_grad()
def whiten(x: Tensor, mask: Tensor, mode: str = "full", eps: float = 1e-8) -> Tensor:
    """x [B, T] shifted and scaled by its masked entries; zero where the mask is false.

    mode "none": x; "center": x − mean; "full": (x − mean) / sqrt(var + eps), with the population variance.
    Call it on the entire step's tensor, not on a shard, or the result depends on the sharding.
    Raises ValueError when nothing is masked in.
    """
    check_tokens(mask, x=x)
    if not bool(mask.any()):
        raise ValueError("mask expects at least one true entry, got none")
    if mode not in _WHITENED:
        raise ValueError(f"mode expects one of {sorted(_WHITENED)}, got {mode!r}")
    whitened = torch.zeros_like(x)
    whitened[mask] = _WHITENED[mode](x[mask], eps)
    return whitened


def _standardised(kept: Tensor, eps: float) -> Tensor:
    centred = kept - kept.mean()
    return centred * torch.rsqrt(centred.square().mean() + eps)


_WHITENED: Mapping[str, Callable[[Tensor, float], Tensor]] = {
    "none": lambda kept, eps: kept,
    "center": lambda kept, eps: kept - kept.mean(),
    "full": _standardised,
}


@dataclass(frozen=True)
class _Group:
    """Statistics of each row's group; tensors [B]."""

    index: Tensor
    """Groups numbered from 0 without gaps."""
    size: Tensor
    centred: Tensor
    """Outcome minus the group's mean; exactly 0 when all are equal, which subtracting a rounded mean is not."""

    @classmethod
    def of(cls, outcomes: Tensor, groups: Tensor) -> "_Group":
        index = torch.unique(groups, return_inverse=True)[1]
        size = torch.bincount(index)[index].to(outcomes.dtype)
        blank = cls(index, size, torch.zeros_like(outcomes))
        spread = blank._reduced(outcomes, "amax") - blank._reduced(outcomes, "amin")
        return replace(blank, centred=torch.where(spread == 0, blank.centred, outcomes - blank.mean_of(outcomes)))

    def mean_of(self, x: Tensor) -> Tensor:
        """Mean of x [B] over each row's group, [B]."""
        return self._reduced(x, "mean")

    def _reduced(self, x: Tensor, reduction: str) -> Tensor:
        empty = x.new_zeros(len(x))
        return empty.scatter_reduce(0, self.index, x, reduction, include_self=False)[self.index]


def _outcomes(rewards: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, rewards, torch.zeros_like(rewards)).sum(dim=1)


def _check_rows(rewards: Tensor, mask: Tensor, groups: Tensor) -> None:
    check_tokens(mask, rewards=rewards)
    if groups.shape != mask.shape[:1]:
        raise ValueError(f"groups expects shape {[mask.shape[0]]}, got {list(groups.shape)}")
    _check_no_row_is_empty(mask)


def _check_no_row_is_empty(mask: Tensor) -> None:
    empty = (~mask.any(dim=1)).nonzero().flatten().tolist()
    if empty:
        raise ValueError(f"mask expects at least one response token in every row; rows {empty} have none")


def overlong_penalty(lengths: Tensor, max_response_tokens: int, buffer_tokens: int, penalty: float) -> Tensor:
    """The term added to each response's score [B] (float64, ≤ 0), from its `lengths` [B] in tokens.

    0 up to max_response_tokens − buffer_tokens, then falling linearly to −penalty at max_response_tokens, and
    −penalty beyond. Source: Yu et al. 2025, "DAPO: An Open-Source LLM Reinforcement Learning System at Scale",
    equation 13 (where penalty is 1). Raises ValueError unless 0 < buffer_tokens ≤ max_response_tokens.
    """
    if not 0 < buffer_tokens <= max_response_tokens:
        raise ValueError(
            f"buffer_tokens expects a number from 1 to max_response_tokens={max_response_tokens}, got {buffer_tokens}"
        )
    excess = lengths.to(torch.float64) - (max_response_tokens - buffer_tokens)
    return -penalty * (excess / buffer_tokens).clamp(0.0, 1.0)
