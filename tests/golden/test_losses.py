"""Value, reward-model and SFT losses against the float64 reference and by hand."""

import math

import pytest
import torch

from mmrlhf_ray.algorithms.losses import bradley_terry_loss, ppo_value_loss, sft_loss
from tests.golden import reference
from tests.golden.support import assert_caught, batch, close, mutant


def check_value_loss(function):
    for b in map(batch, range(4)):
        for clip, denominator in ((0.2, b.tokens), (0.5, 100.0)):
            loss, stats = function(b.values, b.old_values, b.returns, b.mask, clip, denominator)
            rows = (b.values.tolist(), b.old_values.tolist(), b.returns.tolist(), b.mask.tolist())
            want = reference.value_loss(*rows, clip, denominator)
            close(loss, want)
            close(stats["value_loss"], want * denominator)


def test_value_loss_matches_the_reference():
    check_value_loss(ppo_value_loss)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("torch.maximum(unclipped, clipped)", "torch.minimum(unclipped, clipped)"),
        ("torch.maximum(unclipped, clipped)", "unclipped"),
        ("0.5 * torch.where", "torch.where"),
        ("(values - returns)", "(values + returns)"),
        ("(near - returns)", "(near + returns)"),
        ("old_values - value_clip_range, old_values +", "old_values - value_clip_range, old_values + 1 +"),
        ("values.clamp(old_values", "values.clamp(returns"),
        ("torch.where(mask, torch.maximum", "torch.where(mask.roll(1, 1), torch.maximum"),
        ("total / denominator", "total / mask.sum()"),
        ("returns.detach()", "returns.flip(0)"),
    ],
)
def test_a_broken_value_loss_is_caught(old, new):
    assert_caught(check_value_loss, mutant(ppo_value_loss, old, new))


def test_value_loss_by_hand():
    # V = 2, old 1, clip 0.5: near = 1.5. Return 1: max(1, 0.25) = 1. Return 3: max(1, 2.25) = 2.25, no gradient.
    values = torch.tensor([[2.0, 2.0]], dtype=torch.float64, requires_grad=True)
    old = torch.ones(1, 2, dtype=torch.float64)
    returns = torch.tensor([[1.0, 3.0]], dtype=torch.float64)
    loss, stats = ppo_value_loss(values, old, returns, torch.ones(1, 2, dtype=torch.bool), 0.5, 2.0)
    assert loss.item() == pytest.approx(0.5 * (1 + 2.25) / 2)
    loss.backward()
    close(values.grad, [[0.5, 0.0]])
    assert stats["value_clip_fraction"].item() == 1
    assert stats["value_error"].item() == 2
    assert stats["return_square"].item() == 10


CHOSEN = [0.3, -1.2, 2.0, 0.1, 5.0]
REJECTED = [0.1, 0.4, -1.0, 0.1, -3.0]
MARGIN = [0.0, 0.5, 1.0, 0.2, 0.0]


def check_bradley_terry(function):
    chosen, rejected, margin = (torch.tensor(x, dtype=torch.float64) for x in (CHOSEN, REJECTED, MARGIN))
    for smoothing, center in ((0.0, 0.0), (0.1, 0.0), (0.1, 0.01)):
        loss, _ = function(chosen, rejected, 7.0, margin, smoothing, center)
        close(loss, reference.bradley_terry(CHOSEN, REJECTED, MARGIN, smoothing, center, 7.0))
    close(function(chosen, rejected, 5.0)[0], reference.bradley_terry(CHOSEN, REJECTED, [0.0] * 5, 0, 0, 5.0))


def test_bradley_terry_matches_the_reference():
    check_bradley_terry(bradley_terry_loss)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("chosen - rejected\n", "rejected - chosen\n"),
        ("difference - margin", "difference + margin"),
        ("logsigmoid(-difference)", "logsigmoid(difference)"),
        ("-(1.0 - label_smoothing)", "-(1.0 + label_smoothing)"),
        ("- label_smoothing * logsigmoid", "+ label_smoothing * logsigmoid"),
        ("(chosen + rejected).square()", "(chosen - rejected).square()"),
        ("per_pair + center_coef", "per_pair - center_coef"),
        ("total / denominator", "total / len(chosen)"),
        ("difference = chosen - rejected\n", "difference = chosen - rejected.flip(0)\n"),
    ],
)
def test_a_broken_bradley_terry_loss_is_caught(old, new):
    assert_caught(check_bradley_terry, mutant(bradley_terry_loss, old, new))


def test_bradley_terry_by_hand():
    # Equal scores: -log 1/2. A lead of 1: log(1 + e^-1).
    equal, _ = bradley_terry_loss(torch.tensor([2.0]), torch.tensor([2.0]), 1.0)
    assert equal.item() == pytest.approx(math.log(2))
    lead, stats = bradley_terry_loss(torch.tensor([2.0, 0.0, 1.0]), torch.tensor([1.0, 1.0, 1.0]), 3.0)
    want = math.log(1 + math.exp(-1)) + math.log(1 + math.exp(1)) + math.log(2)
    assert lead.item() == pytest.approx(want / 3)
    assert stats["pair_accuracy"].item() == 1.5
    assert stats["pairs"].item() == 3


def check_sft_loss(function):
    b = batch()
    loss, _ = function(b.logprobs, b.mask, 50.0)
    close(loss, reference.sft_loss(b.logprobs.tolist(), b.mask.tolist(), 50.0))


def test_sft_loss_matches_the_reference():
    check_sft_loss(sft_loss)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("total = -torch", "total = torch"),
        ("where(mask, logprobs", "where(mask.roll(1, 1), logprobs"),
        ("total / denominator", "total / mask.sum()"),
    ],
)
def test_a_broken_sft_loss_is_caught(old, new):
    assert_caught(check_sft_loss, mutant(sft_loss, old, new))


def test_sft_by_hand():
    logprobs = torch.tensor([[-1.0, -2.0, -100.0], [-4.0, -100.0, -100.0]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    loss, stats = sft_loss(logprobs, mask, 3.0)
    assert loss.item() == pytest.approx(7 / 3)
    assert stats["nll"].item() == 7
