"""Our side of cross_check: losses and estimates of random rows, with gradients."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.cross_check import Rows, Values, with_gradients
from mmrlhf_ray.algorithms.advantages import gae, group_centred, grpo, rloo, whiten_
from mmrlhf_ray.algorithms.aggregation import loss_denominator, token_weights
from mmrlhf_ray.algorithms.kl import kl_estimate, kl_loss
from mmrlhf_ray.algorithms.logprobs import token_logprobs, token_logprobs_and_entropy
from mmrlhf_ray.algorithms.losses import ppo_value_loss
from mmrlhf_ray.algorithms.mismatch import mismatch_weights
from mmrlhf_ray.algorithms.policy_loss import POLICY_LOSSES, Clip
from mmrlhf_ray.algorithms.preference_loss import bco_loss, dpo_loss, ipo_loss, mpo_loss, orpo_loss, simpo_loss
from mmrlhf_ray.algorithms.segments import spread

BETA, KL_COEF = 0.3, 0.1
PAIRS = 6
LIKED = torch.cat([torch.ones(PAIRS), -torch.ones(PAIRS)])
"""Feedback on the responses: the first half of them is liked, or the chosen of pairs."""
TWO_SIDED, HIGHER, DUAL, ONE_SIDED = Clip(0.2, 0.2), Clip(0.2, 0.28), Clip(0.2, 0.2, 1.5), Clip(None, 4.0)

Compared = Callable[[Rows], Values]


def policy(kind: str, clip: Clip, aggregation: str, correction: str = "none", kl: bool = False) -> Compared:
    """Our loss of the policy and its gradient at the log-probabilities."""

    def of(r: Rows) -> Values:
        lengths = r.mask.sum(dim=1).tolist()
        denominator = loss_denominator(lengths, aggregation, r.longest)
        weights = token_weights(r.mask, aggregation, r.logprobs.dtype)
        corrected = weights * mismatch_weights(r.old_logprobs, r.rollout_logprobs, r.mask, correction, 0.5, 2.0)

        def loss(logprobs: Tensor) -> Tensor:
            given = (logprobs, r.old_logprobs, r.advantages, r.mask, corrected, clip, denominator)
            total = POLICY_LOSSES[kind](*given)[0]
            if kl:
                total = total + KL_COEF * kl_loss(logprobs, r.ref_logprobs, r.mask, weights, "k3", denominator)[0]
            return total

        return with_gradients(loss, r.logprobs)

    return of


def per_response(compared: Compared) -> Compared:
    """The same with one advantage for all tokens of a response."""
    return lambda r: compared(replace(r, advantages=r.advantages[:, :1].expand_as(r.advantages)))


def estimates(kind: Any) -> Compared:
    """Our KL estimate and its gradient, at the tokens."""
    return lambda r: with_gradients(lambda x: kl_estimate(x, r.ref_logprobs, kind)[r.mask], r.logprobs)


def pairs(loss: Callable[..., Tensor]) -> Compared:
    """`loss(rows, log π of chosen [P], of rejected [P])` with gradients at the tokens of 2P responses."""

    def of(r: Rows) -> Values:
        return with_gradients(lambda x: loss(r, *r.sums(x).split(PAIRS)), r.logprobs)

    return of


def ref_sums(r: Rows) -> tuple[Tensor, Tensor]:
    """log π_ref of the chosen [P] and of the rejected [P]."""
    chosen, rejected = r.sums(r.ref_logprobs).split(PAIRS)
    return chosen, rejected


def token_means(r: Rows, sums: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Sums of chosen and rejected, per token."""
    chosen, rejected = r.mask.sum(dim=1).split(PAIRS)
    return sums[0] / chosen, sums[1] / rejected


PREFERENCE: Mapping[str, Compared] = {
    "dpo": pairs(lambda r, a, b: dpo_loss(a, b, *ref_sums(r), BETA, PAIRS)[0]),
    "cdpo": pairs(lambda r, a, b: dpo_loss(a, b, *ref_sums(r), BETA, PAIRS, 0.1)[0]),
    "ipo": pairs(lambda r, a, b: ipo_loss(*token_means(r, (a, b)), *token_means(r, ref_sums(r)), BETA, PAIRS)[0]),
    "simpo": pairs(lambda r, a, b: simpo_loss(*token_means(r, (a, b)), BETA, 0.2, PAIRS)[0]),
    "orpo": pairs(lambda r, a, b: orpo_loss(*token_means(r, (a, b)), BETA, PAIRS)[0]),
    "mpo": pairs(
        lambda r, a, b: mpo_loss(a, b, *ref_sums(r), token_means(r, (a, b))[0], 0.0, BETA, (0.8, 0.2, 1.0), PAIRS)[0]
    ),
    "mpo without sft": pairs(
        lambda r, a, b: mpo_loss(a, b, *ref_sums(r), token_means(r, (a, b))[0], 0.0, BETA, (0.8, 0.2, 0.0), PAIRS)[0]
    ),
    "bco, delta 0": pairs(
        lambda r, a, b: bco_loss(torch.cat([a, b]), torch.cat(ref_sums(r)), LIKED.to(a), 0.0, BETA, PAIRS)[0]
    ),
}


def scored(loss: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Compared:
    """`loss(chosen [P], rejected [P], margin [P])` of a reward model, with gradients at the scores."""

    def of(r: Rows) -> Values:
        chosen, rejected = r.values[:, 0].split(PAIRS)
        return with_gradients(lambda a, b: loss(a, b, r.returns[:PAIRS, 0].abs()), chosen, rejected)

    return of


def value(r: Rows) -> Values:
    """Our clipped value loss."""
    return with_gradients(lambda v: ppo_value_loss(v, r.old_values, r.returns, r.mask, 0.2, r.tokens)[0], r.values)


def logprobs(r: Rows) -> Values:
    """Of the token ids under the logits."""
    return with_gradients(lambda x: token_logprobs(x, r.token_ids), r.logits)


def entropy(r: Rows) -> Values:
    """Of the logits."""
    return with_gradients(lambda x: token_logprobs_and_entropy(x, r.token_ids)[1], r.logits)


def _gae(r: Rows) -> tuple[Tensor, Tensor]:
    return gae(r.rewards[r.mask], r.old_values[r.mask], r.mask.sum(1), 0.98, 0.9)


def gae_returns(r: Rows) -> Values:
    """GAE's returns, gamma 0.98 and lambda 0.9, at the tokens."""
    return [_gae(r)[1]]


def gae_whitened(r: Rows) -> Values:
    """GAE's advantages divided by the population's standard deviation, at the tokens."""
    return [whiten_(_gae(r)[0])]


def gae_whitened_unbiased(r: Rows) -> Values:
    """The same by the unbiased standard deviation."""
    return [x * ((r.tokens - 1) / r.tokens) ** 0.5 for x in gae_whitened(r)]


def _advantages(function: Callable[[Tensor, Tensor], Tensor]) -> Compared:
    return lambda r: [spread(function((r.rewards * r.mask).sum(1), r.groups), r.mask.sum(1))]


ADVANTAGES: Mapping[str, Compared] = {
    "grpo": _advantages(grpo),
    "dr_grpo": _advantages(group_centred),
    "rloo": _advantages(rloo),
}
