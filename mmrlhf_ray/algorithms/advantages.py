"""From scores to advantages: overlong penalty, per-token rewards, estimators with and without a critic, whitening.

Tokens are flat: those of row 0, then those of row 1, and so on, N in all; `lengths` int64 [B] says how many each row
has. Only tokens that are trained on are among them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mmrlhf_ray.algorithms.segments import check_rows, sums_to_go

_STD_EPS = 1e-6


def token_rewards(scores: Tensor, kl: Tensor, lengths: Tensor, kl_coef: float) -> Tensor:
    """Rewards [N]: −kl_coef · kl at each response token, plus the row's score at its last one.

    scores [B], kl [N] in nats, lengths int64 [B].
    Source: Ziegler et al. 2019, section 2.2, R = r − β·log(π/ρ), spread over the tokens.
    Raises ValueError when a row has no response token, since its score would be lost.
    """
    check_rows(lengths, kl=kl)
    if scores.shape != lengths.shape:
        raise ValueError(f"scores expects shape {list(lengths.shape)}, got {list(scores.shape)}")
    rewards = -kl_coef * kl
    rewards[lengths.cumsum(0) - 1] += scores.to(rewards.dtype)
    return rewards


@torch.no_grad()
def gae(rewards: Tensor, values: Tensor, lengths: Tensor, gamma: float, gae_lambda: float) -> tuple[Tensor, Tensor]:
    """Advantages and returns, each [N].

    δ_t = r_t + γ·V_{t+1} − V_t;  A_t = δ_t + γλ·A_{t+1};  return_t = A_t + V_t, with V = A = 0 after the last
    response token (every response ends the episode). "t+1" is the next response token of the row: tokens that are not
    trained on are not in these buffers and so stepped over.
    Source: Schulman et al. 2016, "High-Dimensional Continuous Control Using Generalized Advantage Estimation".
    """
    check_rows(lengths, rewards=rewards, values=values)
    next_values = values.roll(-1)
    next_values[lengths.cumsum(0) - 1] = 0
    advantages = sums_to_go(rewards + gamma * next_values - values, lengths, gamma * gae_lambda)
    return advantages, advantages + values


@torch.no_grad()
def reinforce(rewards: Tensor, lengths: Tensor, gamma: float) -> Tensor:
    """Discounted rewards-to-go [N], A_t = Σ_{k ≥ t} γ^{k−t}·r_k over the row's response tokens.

    It is `gae` with V = 0 and λ = 1.
    Sources: Williams 1992, "Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning";
    Hu 2025, "REINFORCE++", whose advantages are the same, whitened over the step (the caller's `whiten_`, mode "full").
    """
    check_rows(lengths, rewards=rewards)
    return sums_to_go(rewards, lengths, gamma)


@torch.no_grad()
def group_centred(outcomes: Tensor, groups: Tensor) -> Tensor:
    """Outcome minus the mean outcome of its group. Exactly 0 where a group's outcomes are all equal.

    Sources: Liu et al. 2025, "Understanding R1-Zero-Like Training" (Dr. GRPO), section 3.2; Hu 2025, "REINFORCE++"
    (with baseline), which then whitens over the step (the caller's `whiten_`, mode "full").
    """
    return _Group.of(outcomes, groups).centred


@torch.no_grad()
def rloo(outcomes: Tensor, groups: Tensor) -> Tensor:
    """Outcome minus the mean outcome of the others of its group.

    With n responses to the prompt that is (outcome − group mean)·n / (n − 1).
    Source: Ahmadian et al. 2024, "Back to Basics: Revisiting REINFORCE Style Optimization for Learning from Human
    Feedback in LLMs". Raises ValueError when a group has one row.
    """
    group = _Group.of(outcomes, groups)
    alone = groups[group.size == 1].tolist()
    if alone:
        raise ValueError(f"groups expects at least two rows of every group, to compare; groups {alone} have one")
    return group.centred * group.size / (group.size - 1)


@torch.no_grad()
def grpo(outcomes: Tensor, groups: Tensor) -> Tensor:
    """(Outcome − group mean) / (group standard deviation + 1e-6).

    The standard deviation is the unbiased one. Exactly 0 where a group's outcomes are all equal, or it has one row.
    Source: Shao et al. 2024, "DeepSeekMath" (GRPO), section 4.1.2.
    """
    group = _Group.of(outcomes, groups)
    variance = group.mean_of(group.centred.square()) * group.size / (group.size - 1).clamp(min=1)
    return group.centred / (variance.sqrt() + _STD_EPS)


@torch.no_grad()
def turns_to_go(of_turns: Tensor, lengths: Tensor) -> Tensor:
    """What each turn's own reward and those of later turns add to the advantage of its tokens, [N].

    A_t = Σ_{k : turn k ends at or after t} r_k, where of_turns [N] has r_k at the last token of turn k and 0 elsewhere.
    With r_k in units of the group's turns (`statistics.normalised_in_groups` over all turns of all its responses) this
    is GRPO with process supervision. Source: Shao et al. 2024, "DeepSeekMath", section 4.1.3.
    """
    check_rows(lengths, of_turns=of_turns)
    return sums_to_go(of_turns, lengths, 1.0)


TOKEN_ESTIMATORS: Mapping[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "reinforce": reinforce,
    "reinforce_pp": reinforce,
}
"""(rewards [N] of `token_rewards`, lengths [B], gamma) → advantages [N]. They and `gae` give each token its own."""

OUTCOME_ESTIMATORS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "reinforce_pp_baseline": group_centred,
    "rloo": rloo,
    "grpo": grpo,
    "dr_grpo": group_centred,
}
"""(outcomes [B], groups int64 [B]) → advantage [B] of every token of the row.

An outcome is the sum of the response's rewards over its tokens, undiscounted. `groups` numbers the prompt that each row
answers; groups may differ in size. Call them on entire steps: groups must be complete.
"""

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
def whiten_(x: Tensor, mode: str = "full", eps: float = 1e-8) -> Tensor:
    """x [N] shifted and scaled by its own mean and deviation, in place: there is one number for each token of a step.

    mode "none": x; "center": x − mean; "full": (x − mean) / sqrt(var + eps), with the population variance.
    Call it on the entire step's tokens, not on a shard, or the result depends on the sharding.
    Raises ValueError when there is no token.
    """
    if not len(x):
        raise ValueError("x expects at least one token, got none")
    if mode not in _WHITENED:
        raise ValueError(f"mode expects one of {sorted(_WHITENED)}, got {mode!r}")
    return _WHITENED[mode](x, eps)


def _standardised(x: Tensor, eps: float) -> Tensor:
    x.sub_(x.mean())
    return x.mul_(torch.rsqrt(x.dot(x) / len(x) + eps))


_WHITENED: Mapping[str, Callable[[Tensor, float], Tensor]] = {
    "none": lambda x, eps: x,
    "center": lambda x, eps: x.sub_(x.mean()),
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
        if outcomes.dim() != 1 or groups.shape != outcomes.shape:
            raise ValueError(
                f"groups expects one shape [B] with outcomes, {list(outcomes.shape)}; got {list(groups.shape)}"
            )
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
