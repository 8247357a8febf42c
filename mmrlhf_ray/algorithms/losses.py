"""Losses of supervised training (likelihood of demonstrations, L′ = L + λH), of the critic, and of the reward model."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import logsigmoid

from mmrlhf_ray.algorithms.aggregation import check_denominator, check_tokens
from mmrlhf_ray.algorithms.statistics import Stats


def sft_loss(logprobs: Tensor, mask: Tensor, denominator: float) -> tuple[Tensor, Stats]:
    """−Σ over masked tokens of `logprobs` [B, T] / denominator, in nats.

    mask bool [B, T] is true at the demonstration's tokens. `denominator` is the number of such tokens in the entire
    batch over all ranks and micro-batches. Statistics, sums over the tokens: `tokens`, `nll`.
    """
    check_tokens(mask, logprobs=logprobs)
    check_denominator(denominator)
    total = -torch.where(mask, logprobs, torch.zeros_like(logprobs)).sum()
    return total / denominator, {"tokens": mask.sum().to(total.dtype), "nll": total.detach()}


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


def feedback_loss(logprobs: Tensor, mask: Tensor, feedback: Tensor, denominator: float) -> tuple[Tensor, Stats]:
    """H = −Σ over responses of h·log π(response) / denominator, log π summed over the response's tokens, in nats.

    The policy gradient of people's feedback on entire responses. For the likelihood of votes on single decisions, whose
    part for −1 is bounded, see `human_loss`.

    logprobs [B, T], mask bool [B, T] true at the response's tokens, feedback h [B]: 1 liked, −1 disliked, fractions
    weigh, 0 adds nothing. `denominator` is the number of responses with feedback in the entire batch over all ranks
    and micro-batches. Source: H = −E[h·log π(response)], the policy gradient of the feedback as reward (Williams
    1992, REINFORCE); the formula that users bring adds a constant, which has no gradient and is left out.

    For h < 0 H has no lower bound: log π of a disliked response can fall forever. Keep λ small.

    Statistics, sums over the responses: `feedback_rows`, `feedback_loss`, `liked`, `disliked` (counts),
    `liked_logprobs`, `disliked_logprobs` (of entire responses).
    """
    check_tokens(mask, logprobs=logprobs)
    if feedback.shape != mask.shape[:1]:
        raise ValueError(f"feedback expects shape {list(mask.shape[:1])}, got {list(feedback.shape)}")
    check_denominator(denominator)
    judged = mask & (feedback != 0)[:, None]
    responses = torch.where(judged, logprobs, torch.zeros_like(logprobs)).sum(dim=1)
    total = -(feedback.detach().to(responses.dtype) * responses).sum()
    with torch.no_grad():
        liked, disliked = (feedback > 0).to(total.dtype), (feedback < 0).to(total.dtype)
        stats = {
            "feedback_rows": (liked + disliked).sum(),
            "feedback_loss": total.detach(),
            "liked": liked.sum(),
            "disliked": disliked.sum(),
            "liked_logprobs": (liked * responses).sum(),
            "disliked_logprobs": (disliked * responses).sum(),
        }
    return total / denominator, stats


def human_loss(logprobs: Tensor, votes: Tensor) -> Tensor:
    """H = −Σ |v|·log P(v) / (number of votes), in nats, where P(+1) = π(a) and P(−1) = 1 − π(a).

    The negative log-likelihood of people's votes on single decisions: logprobs log π(a) [B] of the decisions that they
    judged; votes v [B]: +1 right, −1 wrong, fractions weigh, 0 = no vote.

    Its part for v > 0 is that of `feedback_loss`. Its part for v < 0 differs: log(1 − π(a)), the unlikelihood loss of
    Welleck et al. 2020, "Neural Text Generation with Unlikelihood Training", which ends at 0 where the decision is
    never made, while `feedback_loss` falls forever with log π(a). It needs the probability of the entire decision, so
    it is for single actions, where π(a) does not vanish as that of a long response does.

    Raises ValueError where shapes differ or no one voted.
    """
    if logprobs.shape != votes.shape or not bool((votes != 0).any()):
        raise ValueError(f"votes expect shape {list(logprobs.shape)} and one that is not 0, got {list(votes.shape)}")
    otherwise = torch.log1p(-logprobs.exp().clamp(max=1.0 - 1e-6))
    likelihood = torch.where(votes > 0, logprobs, otherwise)
    return -(votes.abs() * likelihood).sum() / (votes != 0).sum()


def bradley_terry_loss(
    chosen: Tensor,
    rejected: Tensor,
    denominator: float,
    margin: Tensor | None = None,
    label_smoothing: float = 0.0,
    center_coef: float = 0.0,
    weights: Tensor | None = None,
) -> tuple[Tensor, Stats]:
    """Loss of P pairs: Σ [−(1−s)·log σ(d) − s·log σ(−d) + center_coef·(chosen + rejected)²] / denominator.

    d = chosen − rejected − margin; chosen, rejected, margin [P] scores; s = label_smoothing, the share of labels
    believed wrong; weights [P], if given, multiply each pair's term (`ensemble_weights`). `denominator` is the number
    of pairs in the entire batch over all ranks and micro-batches.
    Sources: Bradley & Terry 1952; margin: Touvron et al. 2023 (Llama 2, equation 2); centring: Eisenstein et al.
    2023; smoothing: Mitchell 2023, "A note on DPO with noisy preferences".

    Statistics, sums over the pairs: `pairs`, `reward_loss`, `pair_accuracy` (a tie counts one half),
    `score_chosen`, `score_rejected`.
    """
    if chosen.dim() != 1 or chosen.shape != rejected.shape:
        raise ValueError(f"chosen and rejected expect one shape [P], got {list(chosen.shape)}, {list(rejected.shape)}")
    if margin is not None and margin.shape != chosen.shape:
        raise ValueError(f"margin expects shape {list(chosen.shape)}, got {list(margin.shape)}")
    _check_weights(weights, chosen)
    check_denominator(denominator)
    difference = chosen - rejected
    if margin is not None:
        difference = difference - margin
    per_pair = -(1.0 - label_smoothing) * logsigmoid(difference) - label_smoothing * logsigmoid(-difference)
    per_pair = per_pair + center_coef * (chosen + rejected).square()
    if weights is not None:
        per_pair = per_pair * weights
    total = per_pair.sum()
    with torch.no_grad():
        stats = {
            "pairs": total.new_tensor(float(chosen.numel())),
            "reward_loss": total.detach(),
            "pair_accuracy": right_pairs(chosen, rejected).sum(),
            "score_chosen": chosen.sum(),
            "score_rejected": rejected.sum(),
        }
    return total / denominator, stats


def pair_accuracy(chosen: Tensor, rejected: Tensor) -> float:
    """Share of pairs [P] in which the chosen response has the higher score; a tie counts one half.

    Raises ValueError without any pair.
    """
    if chosen.numel() == 0 or chosen.shape != rejected.shape:
        raise ValueError(
            f"chosen and rejected expect one shape [P], P > 0, got {list(chosen.shape)}, {list(rejected.shape)}"
        )
    return float(right_pairs(chosen, rejected).mean())


def right_pairs(higher: Tensor, lower: Tensor) -> Tensor:
    """1 where `higher` is the larger, 0 where it is the smaller, one half at a tie; without gradient."""
    return 0.5 * (torch.sign(higher.detach() - lower.detach()) + 1.0)


def plackett_luce_loss(
    scores: Tensor, ranks: Tensor, rows: Tensor, denominator: float, weights: Tensor | None = None
) -> tuple[Tensor, Stats]:
    """Loss of rankings of any length: −Σ over responses i of log(exp(s_i) / Σ_{j ∈ C_i} exp(s_j)) / denominator.

    scores [N]; ranks [N], 1 = best; rows [N], the number of the ranking that the response belongs to (all of its
    responses must be in one call). C_i is i itself and the responses of its ranking with a strictly worse rank:
    without ties that is Plackett–Luce, and with two responses Bradley–Terry; tied responses are not compared with
    each other, each competes with the worse ones alone. weights [N], if given, multiply each response's term; give
    all responses of a ranking the same. `denominator` is the number of rankings in the entire batch over all ranks
    and micro-batches. Sources: Luce 1959; Plackett 1975, "The Analysis of Permutations".

    Statistics, sums: `rankings`, `reward_loss`, `pairs` (of one ranking, with different ranks), `pair_accuracy`
    (over these pairs; equal scores count one half).
    """
    if scores.dim() != 1 or ranks.shape != scores.shape or rows.shape != scores.shape:
        shapes = f"{list(scores.shape)}, {list(ranks.shape)}, {list(rows.shape)}"
        raise ValueError(f"scores, ranks and rows expect one shape [N], got {shapes}")
    _check_weights(weights, scores)
    check_denominator(denominator)
    worse = (rows[:, None] == rows[None, :]) & (ranks[:, None] < ranks[None, :])
    itself = torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    competing = scores.expand(len(scores), -1).masked_fill(~(worse | itself), -torch.inf)
    per_response = torch.logsumexp(competing, dim=1) - scores
    if weights is not None:
        per_response = per_response * weights
    total = per_response.sum()
    with torch.no_grad():
        right = right_pairs(scores[:, None], scores[None, :])
        stats = {
            "rankings": total.new_tensor(float(rows.unique().numel())),
            "reward_loss": total.detach(),
            "pairs": worse.sum().to(total.dtype),
            "pair_accuracy": (right * worse).sum(),
        }
    return total / denominator, stats


def rating_loss(
    scores: Tensor, ratings: Tensor, denominator: float, weights: Tensor | None = None
) -> tuple[Tensor, Stats]:
    """Regression on ratings: ½ Σ over rated entries of (scores − ratings)² / denominator.

    scores, ratings [N, A], one column per aspect; NaN = not rated. weights [N], if given, multiply each response's
    terms. `denominator` is the number of rated entries in the entire batch over all ranks and micro-batches.
    Source: multi-attribute regression, Wang et al. 2024, "HelpSteer2"; with the ½ of a Gaussian likelihood.

    Statistics, sums over the rated entries: `ratings` (their number), `reward_loss`, `rating_error` (|difference|).
    """
    if scores.dim() != 2 or scores.shape != ratings.shape:
        raise ValueError(f"scores and ratings expect one shape [N, A], got {list(scores.shape)}, {list(ratings.shape)}")
    _check_weights(weights, scores)
    check_denominator(denominator)
    rated = ~ratings.isnan()
    # Selected before squaring, so that what is not rated cannot put NaN into the gradient.
    error = torch.where(rated, scores - ratings.detach(), torch.zeros_like(scores))
    per_response = 0.5 * error.square().sum(dim=1)
    if weights is not None:
        per_response = per_response * weights
    total = per_response.sum()
    stats = {
        "ratings": rated.sum().to(total.dtype),
        "reward_loss": total.detach(),
        "rating_error": error.detach().abs().sum(),
    }
    return total / denominator, stats


def language_term(logprobs: Tensor, preferred: Tensor, denominator: float) -> tuple[Tensor, Stats]:
    """−Σ over the tokens of preferred responses of `logprobs` [N] / denominator, in nats: what keeps the hidden states
    of a reward model those of a language model.

    logprobs log p [N] of all responses' tokens under the vocabulary head; preferred bool [N], whether the token is of a
    preferred response. `denominator` is the number of such tokens in the entire batch over all ranks and micro-batches.
    Source: the SFT regularisation of GRM, Yang et al. 2024, "Regularizing Hidden States Enables Learning Generalizable
    Reward Model for LLMs", section 3.2, added to the ranking loss with a weight of its own instead of (1 − α) and α.

    Statistics, sums over these tokens: `language_tokens`, `language_nll`.
    """
    if logprobs.dim() != 1 or preferred.shape != logprobs.shape:
        raise ValueError(
            f"logprobs and preferred expect one shape [N], got {list(logprobs.shape)}, {list(preferred.shape)}"
        )
    check_denominator(denominator)
    # Selected, not multiplied: a token that no one prefers may have a log-probability of −∞.
    total = -torch.where(preferred, logprobs, torch.zeros_like(logprobs)).sum()
    return total / denominator, {"language_tokens": preferred.sum().to(total.dtype), "language_nll": total.detach()}


# P(count ≤ 0), P(count ≤ 1), … of a Poisson variable with mean 1; beyond the last the chance is below 1e-16.
_POISSON_CDF = np.exp(-1.0) * np.cumsum(1.0 / np.cumprod([1.0, *range(1, 18)]))


def ensemble_weights(row_ids: Tensor, heads: int, seed: int) -> Tensor:
    """How often each head's resample of the data holds each row, float32 [heads, P]: Poisson(1) counts.

    row_ids int64 [P], the rows' numbers in the data. A count depends on (row id, head, seed) alone, so neither
    sharding, the batch nor resuming changes what a head learns from. The limit of the bootstrap for many rows
    (Efron 1979; Oza & Russell 2001, "Online Bagging and Boosting"), drawn from a hash (splitmix64: Steele, Lea &
    Flood 2014) by inversion.
    """
    if row_ids.dim() != 1 or row_ids.dtype != torch.int64:
        raise ValueError(f"row_ids expects int64 [P], got {row_ids.dtype} {list(row_ids.shape)}")
    if heads < 1:
        raise ValueError(f"heads expects 1 or more, got {heads}")
    rows = row_ids.cpu().numpy().astype(np.uint64)
    key = _splitmix64(np.array([seed], dtype=np.int64).astype(np.uint64))
    columns = np.arange(heads, dtype=np.uint64)[:, None]
    uniform = (_splitmix64(_splitmix64(key ^ rows)[None, :] ^ columns) >> np.uint64(11)) * 2.0**-53
    counts = np.searchsorted(_POISSON_CDF, uniform, side="right")
    return torch.from_numpy(counts.astype(np.float32)).to(row_ids.device)


def _splitmix64(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    z = x + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _check_weights(weights: Tensor | None, rows: Tensor) -> None:
    if weights is not None and weights.shape != rows.shape[:1]:
        raise ValueError(f"weights expects shape {list(rows.shape[:1])}, one per row, got {list(weights.shape)}")
