"""Preference objectives: they train a policy on judged responses directly, without a reward model; and corrections,
whose differing tokens weigh more.
"""

from collections.abc import Sequence
from difflib import SequenceMatcher

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from mmrlhf_ray.algorithms.aggregation import check_denominator
from mmrlhf_ray.algorithms.losses import right_pairs
from mmrlhf_ray.algorithms.statistics import Stats


def dpo_loss(
    chosen: Tensor,
    rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    beta: float | Tensor,
    denominator: float,
    label_smoothing: float = 0.0,
) -> tuple[Tensor, Stats]:
    """DPO, and cDPO with s = label_smoothing: Σ [−(1−s)·log σ(βh) − s·log σ(−βh)] / denominator.

    h = (chosen − ref_chosen) − (rejected − ref_rejected), all [P]; beta a number or one per pair [P]; s is the
    share of labels believed wrong. Sources: Rafailov et al. 2023, "Direct Preference Optimization", equation 7;
    smoothing: Mitchell 2023, "A note on DPO with noisy preferences".
    """
    _check(chosen=chosen, rejected=rejected, ref_chosen=ref_chosen, ref_rejected=ref_rejected)
    if isinstance(beta, Tensor) and beta.dim():
        _check(chosen=chosen, beta=beta)
    check_denominator(denominator)
    reward_chosen = beta * (chosen - ref_chosen.detach())
    reward_rejected = beta * (rejected - ref_rejected.detach())
    difference = reward_chosen - reward_rejected
    per_pair = -(1.0 - label_smoothing) * logsigmoid(difference) - label_smoothing * logsigmoid(-difference)
    total = per_pair.sum()
    return total / denominator, _pair_stats(total, reward_chosen, reward_rejected)


def ipo_loss(
    chosen_mean: Tensor,
    rejected_mean: Tensor,
    ref_chosen_mean: Tensor,
    ref_rejected_mean: Tensor,
    beta: float,
    denominator: float,
) -> tuple[Tensor, Stats]:
    """IPO: Σ (h − 1/(2β))² / denominator, h = (chosen − ref_chosen) − (rejected − ref_rejected), all [P].

    In the paper h is of entire responses. Taken per token, as published implementations do and as here, the target
    1/(2β) means the same for responses of every length. Source: Azar et al. 2023, "A General Theoretical Paradigm
    to Understand Learning from Human Preferences", equation 17, where β is called τ.
    """
    _check(chosen=chosen_mean, rejected=rejected_mean, ref_chosen=ref_chosen_mean, ref_rejected=ref_rejected_mean)
    check_denominator(denominator)
    ratio_chosen = chosen_mean - ref_chosen_mean.detach()
    ratio_rejected = rejected_mean - ref_rejected_mean.detach()
    total = (ratio_chosen - ratio_rejected - 1.0 / (2.0 * beta)).square().sum()
    return total / denominator, _pair_stats(total, beta * ratio_chosen, beta * ratio_rejected)


def kto_loss(
    logprobs: Tensor,
    ref_logprobs: Tensor,
    feedback: Tensor,
    kl: float,
    beta: float,
    desirable_weight: float,
    undesirable_weight: float,
    denominator: float,
) -> tuple[Tensor, Stats]:
    """KTO: Σ |f|·λ·(1 − σ(±β(r − kl))) / denominator, r = logprobs − ref_logprobs; all tensors [N].

    + and λ = desirable_weight for feedback f > 0, − and λ = undesirable_weight for f < 0; responses with f = 0 add
    nothing. kl ≥ 0 is the reference point z0 of the entire batch in nats (`kto_reference_kl`), without gradient.
    A response counts as right where its reward is above 0 when liked, below 0 when disliked.
    Source: Ethayarajh et al. 2024, "KTO: Model Alignment as Prospect Theoretic Optimization", equation 8.
    """
    check_denominator(denominator)
    if not kl >= 0:
        raise ValueError(f"kl expects the reference point z0 >= 0 (see kto_reference_kl), got {kl}")
    rewards = _rewards(logprobs, ref_logprobs, feedback, beta)
    weight = desirable_weight * feedback.clamp(min=0) - undesirable_weight * feedback.clamp(max=0)
    total = (weight * torch.sigmoid(-feedback.sign() * (rewards - beta * kl))).sum()
    return total / denominator, _response_stats(total, rewards, feedback, 0.0)


def orpo_loss(chosen_mean: Tensor, rejected_mean: Tensor, beta: float, denominator: float) -> tuple[Tensor, Stats]:
    """ORPO: Σ [−chosen − β·log σ(log odds(chosen) − log odds(rejected))] / denominator; chosen, rejected [P].

    odds = p / (1 − p) with p = exp(mean log-probability per token). Above 1 − ε (ε of the dtype) p counts as 1 − ε
    within the odds, which would be infinite at 1. Also the statistic `chosen_nll` (the first term).
    Source: Hong et al. 2024, "ORPO: Monolithic Preference Optimization without Reference Model", equations 6 and 7.
    """
    _check(chosen=chosen_mean, rejected=rejected_mean)
    check_denominator(denominator)
    log_odds_ratio = _log_odds(chosen_mean) - _log_odds(rejected_mean)
    total = (-chosen_mean - beta * logsigmoid(log_odds_ratio)).sum()
    stats = _pair_stats(total, beta * chosen_mean, beta * rejected_mean)
    return total / denominator, stats | {"chosen_nll": -chosen_mean.detach().sum()}


def simpo_loss(
    chosen_mean: Tensor, rejected_mean: Tensor, beta: float, margin: float, denominator: float
) -> tuple[Tensor, Stats]:
    """SimPO: Σ −log σ(β·chosen − β·rejected − margin) / denominator; chosen, rejected [P], margin is the paper's γ.

    Source: Meng et al. 2024, "SimPO: Simple Preference Optimization with a Reference-Free Reward", equation 6.
    """
    _check(chosen=chosen_mean, rejected=rejected_mean)
    check_denominator(denominator)
    reward_chosen, reward_rejected = beta * chosen_mean, beta * rejected_mean
    total = -logsigmoid(reward_chosen - reward_rejected - margin).sum()
    return total / denominator, _pair_stats(total, reward_chosen, reward_rejected)


def bco_loss(
    logprobs: Tensor, ref_logprobs: Tensor, feedback: Tensor, delta: float, beta: float, denominator: float
) -> tuple[Tensor, Stats]:
    """BCO: Σ −|f|·log σ(±(r − delta)) / denominator, r = β·(logprobs − ref_logprobs); all tensors [N].

    + for feedback f > 0, − for f < 0; responses with f = 0 add nothing. delta is the reward shift (`bco_delta`), in
    units of r. A response counts as right where r is above delta when liked, below when disliked.
    Source: Jung et al. 2024, "Binary Classifier Optimization for Large Language Model Alignment".
    """
    check_denominator(denominator)
    rewards = _rewards(logprobs, ref_logprobs, feedback, beta)
    total = -(feedback.abs() * logsigmoid(feedback.sign() * (rewards - delta))).sum()
    return total / denominator, _response_stats(total, rewards, feedback, delta)


def mpo_loss(
    chosen: Tensor,
    rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    chosen_mean: Tensor,
    delta: float,
    beta: float,
    weights: tuple[float, float, float],
    denominator: float,
) -> tuple[Tensor, Stats]:
    """MPO: weights · (DPO, BCO, −Σ chosen_mean / denominator); all tensors [P].

    The BCO term of a pair is the sum over its two responses, chosen liked and rejected disliked, as in the paper;
    delta is its reward shift. Also the statistics `dpo_loss`, `bco_loss`, `chosen_nll`, without their weights.
    Source: Wang et al. 2024, "Enhancing the Reasoning Ability of Multimodal Large Language Models via Mixed
    Preference Optimization".
    """
    _check(chosen=chosen, chosen_mean=chosen_mean)
    preference, stats = dpo_loss(chosen, rejected, ref_chosen, ref_rejected, beta, denominator)
    both, ref_both = torch.cat([chosen, rejected]), torch.cat([ref_chosen, ref_rejected])
    feedback = torch.cat([torch.ones_like(chosen), -torch.ones_like(rejected)]).detach()
    quality, quality_stats = bco_loss(both, ref_both, feedback, delta, beta, denominator)
    nll = -chosen_mean.sum()
    loss = weights[0] * preference + weights[1] * quality + weights[2] * nll / denominator
    parts = {
        "preference_loss": loss.detach() * denominator,
        "dpo_loss": stats["preference_loss"],
        "bco_loss": quality_stats["preference_loss"],
        "chosen_nll": nll.detach(),
    }
    return loss, stats | parts


def margin_beta(beta: float, margin: Tensor, scale: float, rate: float) -> Tensor:
    """β of each pair [P], larger where people saw a larger difference: β·(1 + scale·(1 − exp(−rate·margin))).

    margin [P] ≥ 0; raises ValueError otherwise. Source: Zhang et al. 2025, "MM-RLHF: The Next Step Forward in
    Multimodal LLM Alignment", dynamic reward scaling.
    """
    if (margin < 0).any():
        raise ValueError(
            f"margin expects numbers of 0 or more, got {margin.min().item()}; exchange chosen and rejected"
        )
    return beta * (1.0 - scale * torch.expm1(-rate * margin.detach()))


def kto_reference_kl(log_ratios_sum: float, count: float) -> float:
    """z0 of KTO: max(0, mean of log π(y') − log π_ref(y')) in nats, over `count` responses of the entire batch.

    The y' are responses to *other* prompts, which estimates how far the policy is from the reference in general.
    Raises ValueError without any response. Source: Ethayarajh et al. 2024, section 4.
    """
    if not count > 0:
        raise ValueError(f"count expects a positive number of responses, got {count}")
    return max(0.0, log_ratios_sum / count)


def bco_delta(liked_mean: float, disliked_mean: float) -> float:
    """The reward shift of BCO: halfway between the mean rewards of liked and disliked responses.

    Both means are over the responses of this and all past batches, each with the reward it had in its own step.
    Source: Jung et al. 2024.
    """
    return (liked_mean + disliked_mean) / 2.0


def _check(**tensors: Tensor) -> None:
    shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
    first = next(iter(shapes.values()))
    if len(first) != 1 or any(shape != first for shape in shapes.values()):
        got = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(f"{', '.join(shapes)} expect one shape [P], one number per pair or response; got {got}")


def _rewards(logprobs: Tensor, ref_logprobs: Tensor, feedback: Tensor, beta: float) -> Tensor:
    _check(logprobs=logprobs, ref_logprobs=ref_logprobs, feedback=feedback)
    # Zeroed where no one judged, so that such a response cannot put NaN into the gradient.
    return torch.where(feedback != 0, beta * (logprobs - ref_logprobs.detach()), torch.zeros_like(logprobs))


def _log_odds(logprobs: Tensor) -> Tensor:
    """log(p / (1 − p)) at p = exp(logprobs); expm1 keeps the digits of 1 − p near p = 1."""
    below_one = logprobs.clamp(max=-torch.finfo(logprobs.dtype).eps)
    return logprobs - torch.log(-torch.expm1(below_one))


@torch.no_grad()
def _pair_stats(total: Tensor, reward_chosen: Tensor, reward_rejected: Tensor) -> Stats:
    return {
        "pairs": total.new_tensor(float(reward_chosen.numel())),
        "preference_loss": total.detach(),
        "preference_accuracy": right_pairs(reward_chosen, reward_rejected).sum(),
        "reward_chosen": reward_chosen.sum(),
        "reward_rejected": reward_rejected.sum(),
    }


@torch.no_grad()
def _response_stats(total: Tensor, rewards: Tensor, feedback: Tensor, threshold: float) -> Stats:
    liked, disliked = (feedback > 0).to(rewards.dtype), (feedback < 0).to(rewards.dtype)
    above = right_pairs(rewards, torch.full_like(rewards, threshold))
    return {
        "responses": (liked + disliked).sum(),
        "liked": liked.sum(),
        "disliked": disliked.sum(),
        "preference_loss": total.detach(),
        "preference_accuracy": (liked * above + disliked * (1.0 - above)).sum(),
        "reward_chosen": (liked * rewards).sum(),
        "reward_rejected": (disliked * rewards).sum(),
    }


def changed_tokens(chosen_ids: Sequence[int], rejected_ids: Sequence[int]) -> tuple[list[bool], list[bool]]:
    """Which tokens of `chosen_ids` and of `rejected_ids` have no counterpart in the other response.

    Counterparts are, in order on both sides, the common beginning, the common end, and between them the longest
    matching runs of ids (as Python's difflib finds them). One bool per token; all false when the responses are equal.
    """
    start = _common(chosen_ids, rejected_ids)
    end = _common(chosen_ids[start:][::-1], rejected_ids[start:][::-1])
    # Between beginning and end only: over repetitive text the longest run may be one shifted against the other.
    inner = [list(ids[start : len(ids) - end]) for ids in (chosen_ids, rejected_ids)]
    flags = [[True] * len(ids) for ids in inner]
    # autojunk would call frequent tokens of a long response noise and report them as changed.
    for block in SequenceMatcher(None, inner[0], inner[1], autojunk=False).get_matching_blocks():
        for side, first in zip(flags, (block.a, block.b), strict=True):
            side[first : first + block.size] = [False] * block.size
    chosen, rejected = ([False] * start + side + [False] * end for side in flags)
    return chosen, rejected


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many ids both begin with."""
    pairs = enumerate(zip(a, b, strict=False))
    return next((i for i, (x, y) in pairs if x != y), min(len(a), len(b)))


def segment_logprobs(logprobs: Tensor, changed: Sequence[bool] | Tensor, weight: float) -> Tensor:
    """Log-probability of one response in which changed tokens count `weight` > 0 and the others 1, a scalar:

    (Σ_unchanged logprobs + weight·Σ_changed logprobs) / (n_unchanged + weight·n_changed); logprobs, changed [T].
    Goes into `dpo_loss` in place of the sums, of policy and reference alike.
    Raises ValueError for a response without tokens. Source: Yu et al. 2023, "RLHF-V", dense DPO.
    """
    flags = torch.as_tensor(changed, dtype=torch.bool, device=logprobs.device)
    if logprobs.dim() != 1 or flags.shape != logprobs.shape or not logprobs.numel():
        raise ValueError(
            f"logprobs and changed expect one shape [T], T > 0, got {list(logprobs.shape)}, {list(flags.shape)}"
        )
    if not weight > 0:
        raise ValueError(f"weight expects a positive number, got {weight}")
    weights = torch.ones_like(logprobs).masked_fill(flags, weight)
    return (weights * logprobs).sum() / weights.sum()
