"""Cutting a mini-batch into micro-batches or ranks changes neither the loss, the gradient, nor the statistics."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mmrlhf_ray.algorithms import bradley_terry_loss, merge_stats, ppo_policy_loss, ppo_value_loss, sft_loss
from tests.golden.support import Batch, batch

CUTS = [[[0, 1, 2, 3, 4, 5]], [[0, 1, 2], [3, 4, 5]], [[5], [1, 3], [0, 2, 4]], [[0], [1], [2], [3], [4], [5]]]

Loss = Callable[[Batch, Tensor, list[int]], tuple[Tensor, dict[str, Tensor]]]


def _policy(b: Batch, x: Tensor, i: list[int]):
    return ppo_policy_loss(x[i], b.old_logprobs[i], b.advantages[i], b.mask[i], 0.2, b.tokens)


def _value(b: Batch, x: Tensor, i: list[int]):
    return ppo_value_loss(x[i], b.old_values[i], b.returns[i], b.mask[i], 0.2, b.tokens)


def _sft(b: Batch, x: Tensor, i: list[int]):
    return sft_loss(x[i], b.mask[i], b.tokens)


def _reward(b: Batch, x: Tensor, i: list[int]):
    return bradley_terry_loss(x[i, 0], x[i, 1], len(x), None, 0.1, 0.01)


def _run(loss: Loss, b: Batch, cut: list[list[int]]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    x = b.logprobs.clone().requires_grad_()
    parts = [loss(b, x, rows) for rows in cut]
    total = torch.stack([part[0] for part in parts]).sum()
    total.backward()
    return total.detach(), x.grad, merge_stats(part[1] for part in parts)


@pytest.mark.parametrize("loss", [_policy, _value, _sft, _reward])
@pytest.mark.parametrize("cut", CUTS[1:])
def test_invariant_under_cutting(loss, cut):
    b = batch()
    want = _run(loss, b, CUTS[0])
    got = _run(loss, b, cut)
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-12)


def test_averaging_each_part_by_itself_is_caught():
    # The usual mistake: rows of different length then weigh differently in every cut.
    b = batch()

    def local_mean(b: Batch, x: Tensor, i: list[int]):
        return ppo_policy_loss(x[i], b.old_logprobs[i], b.advantages[i], b.mask[i], 0.2, float(b.mask[i].sum()))

    whole, _, _ = _run(local_mean, b, CUTS[0])
    cut, _, _ = _run(local_mean, b, CUTS[2])
    assert not torch.allclose(whole, cut / len(CUTS[2]), rtol=1e-3)


@pytest.mark.parametrize("loss", [_policy, _value, _sft])
def test_padding_changes_nothing_even_when_it_is_nan(loss):
    b = batch()
    want = _run(loss, b, CUTS[0])
    dirty = {
        name: torch.where(b.mask, getattr(b, name), torch.nan)
        for name in ("logprobs", "old_logprobs", "advantages", "old_values", "returns")
    }
    got = _run(loss, Batch(**dirty, values=b.values, rewards=b.rewards, mask=b.mask), CUTS[0])
    torch.testing.assert_close(got, want, rtol=0, atol=0)
