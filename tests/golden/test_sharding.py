"""Cutting a mini-batch into micro-batches or ranks changes neither the loss, the gradient, nor the statistics."""

from collections.abc import Callable
from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import Tensor

from mmrlhf_ray.algorithms.aggregation import AGGREGATIONS, loss_denominator, token_weights
from mmrlhf_ray.algorithms.kl import kl_loss
from mmrlhf_ray.algorithms.losses import bradley_terry_loss, ppo_value_loss, sft_loss
from mmrlhf_ray.algorithms.mismatch import CORRECTIONS, mismatch_weights
from mmrlhf_ray.algorithms.policy_loss import POLICY_LOSSES, Clip, entropy_bonus, ppo_policy_loss
from mmrlhf_ray.algorithms.statistics import merge_stats
from tests.golden.support import Batch, batch

# Rows of each micro-batch; which shard a micro-batch is on makes no difference to a sum.
CUTS = [
    [[0, 1, 2, 3, 4, 5]],
    [[0, 1, 2], [3, 4, 5]],
    [[5], [1, 3], [0, 2, 4]],
    [[4, 0], [3], [5, 2], [1]],
    [[0], [1], [2], [3], [4], [5]],
]

Loss = Callable[[Batch, Tensor, list[int]], tuple[Tensor, dict[str, Tensor]]]


def _value(b: Batch, x: Tensor, i: list[int]):
    return ppo_value_loss(x[i], b.old_values[i], b.returns[i], b.mask[i], 0.2, b.tokens)


def _sft(b: Batch, x: Tensor, i: list[int]):
    return sft_loss(x[i], b.mask[i], b.tokens)


def _reward(b: Batch, x: Tensor, i: list[int]):
    return bradley_terry_loss(x[i, 0], x[i, 1], len(x), None, 0.1, 0.01)


def _online(policy_loss: str, aggregation: str, correction: str) -> Loss:
    """A policy's whole loss: the policy term, KL and entropy, weighted by aggregation and mismatch."""

    def loss(b: Batch, x: Tensor, i: list[int]) -> tuple[Tensor, dict[str, Tensor]]:
        old, mask = b.old_logprobs[i], b.mask[i]
        denominator = loss_denominator(b.mask.sum(1).tolist(), aggregation, 12)
        corrected = mismatch_weights(old, old + 0.3 * b.returns[i], mask, correction, 0.8, 1.2)
        weights = token_weights(mask, aggregation, torch.float64) * corrected
        value, stats = POLICY_LOSSES[policy_loss](
            x[i], old, b.advantages[i], mask, weights, Clip(0.2, 0.28), denominator
        )
        kl, kl_stats = kl_loss(x[i], b.old_values[i], mask, weights, "k2", denominator)
        bonus, entropy_stats = entropy_bonus(-x[i], mask, weights, denominator)
        return value + 0.1 * kl - 0.01 * bonus, stats | kl_stats | entropy_stats

    return loss


ONLINE = [
    pytest.param(_online(*names), id="-".join(names)) for names in product(POLICY_LOSSES, AGGREGATIONS, CORRECTIONS)
]


def _run(loss: Loss, b: Batch, cut: list[list[int]]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    x = b.logprobs.clone().requires_grad_()
    parts = [loss(b, x, rows) for rows in cut]
    total = torch.stack([part[0] for part in parts]).sum()
    total.backward()
    return total.detach(), x.grad, merge_stats(part[1] for part in parts)


@pytest.mark.parametrize("loss", [*ONLINE, _value, _sft, _reward])
@pytest.mark.parametrize("cut", CUTS[1:])
def test_invariant_under_cutting(loss, cut):
    b = batch()
    want = _run(loss, b, CUTS[0])
    got = _run(loss, b, cut)
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("cut", CUTS[1:])
def test_averaging_each_part_by_itself_is_caught(cut):
    # The usual mistake: rows of different length then weigh differently in every cut.
    b = batch()

    def local_mean(b: Batch, x: Tensor, i: list[int]) -> tuple[Tensor, dict[str, Tensor]]:
        mask, ones = b.mask[i], torch.ones_like(x[i])
        return ppo_policy_loss(x[i], b.old_logprobs[i], b.advantages[i], mask, ones, Clip(0.2, 0.2), float(mask.sum()))

    whole, _, _ = _run(local_mean, b, CUTS[0])
    parts, _, _ = _run(local_mean, b, cut)
    assert not torch.allclose(whole, parts / len(cut), rtol=1e-3)


def test_a_sequence_ratio_of_a_cut_row_is_another():
    """Why GSPO's rows must be whole."""
    b = batch()
    loss = _online("gspo", "token_mean", "none")
    want, _, _ = _run(loss, b, CUTS[0])
    halves = [b.mask & (torch.arange(9) < 4), b.mask & (torch.arange(9) >= 4)]
    parts = [loss(replace(b, mask=half), b.logprobs, CUTS[0][0])[0] * half.sum() for half in halves]
    assert not torch.allclose(torch.stack(parts).sum() / b.tokens, want, rtol=1e-3)


@pytest.mark.parametrize("loss", [*ONLINE, _value, _sft])
def test_padding_changes_nothing_even_when_it_is_nan(loss):
    b = batch()
    want = _run(loss, b, CUTS[0])
    dirty = {
        name: torch.where(b.mask, getattr(b, name), torch.nan)
        for name in ("logprobs", "old_logprobs", "advantages", "old_values", "returns")
    }
    got = _run(loss, Batch(**dirty, values=b.values, rewards=b.rewards, mask=b.mask), CUTS[0])
    torch.testing.assert_close(got, want, rtol=0, atol=0)
