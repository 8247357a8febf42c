"""Corrections of the sampler/learner mismatch, and its measures, against the float64 reference and by hand."""

import math

import pytest
import torch

from mmrlhf_ray.algorithms import mismatch
from mmrlhf_ray.algorithms.mismatch import CORRECTIONS, flat_mismatch_weights, mismatch_stats, mismatch_weights
from mmrlhf_ray.algorithms.statistics import mean_stats
from tests.golden import reference
from tests.golden.support import assert_caught, batch, close, flat, grid, mutant

LOW, HIGH = 0.8, 1.1


def _pair(seed=0):
    b = batch(seed)
    return b.old_logprobs, b.old_logprobs + 0.3 * b.rewards, b.mask


def check_weights(correction, function):
    for seed in range(8):
        old, rollout, mask = _pair(seed)
        want = reference.mismatch_weights(old.tolist(), rollout.tolist(), mask.tolist(), correction, LOW, HIGH)
        close(function(old, rollout, mask, correction, LOW, HIGH), want)


@pytest.mark.parametrize("correction", CORRECTIONS)
def test_weights_match_the_reference(correction):
    check_weights(correction, mismatch_weights)


def check_flat_weights(correction, function):
    for seed in range(8):
        old, rollout, mask = _pair(seed)
        want = reference.mismatch_weights(old.tolist(), rollout.tolist(), mask.tolist(), correction, LOW, HIGH)
        got = function(flat(old, mask), flat(rollout, mask), mask.sum(1), correction, LOW, HIGH)
        close(grid(got, mask), want)


@pytest.mark.parametrize("correction", CORRECTIONS)
def test_flat_weights_match_the_reference(correction):
    check_flat_weights(correction, flat_mismatch_weights)


@pytest.mark.parametrize(
    ("correction", "old", "new"),
    [
        *((c, "old_logprobs - rollout_logprobs", "rollout_logprobs - old_logprobs") for c in ("tis", "sequence_mask")),
        ("sequence_mask", "row_sums(log_ratio, lengths) / lengths", "row_sums(log_ratio, lengths)"),
        ("sequence_mask", "spread(weights, lengths)", "spread(weights.flip(0), lengths)"),
        ("icepop", "low, high)[:, 0]", "low, high)[:, 0].flip(0)"),
    ],
)
def test_broken_flat_weights_are_caught(correction, old, new):
    assert_caught(lambda f: check_flat_weights(correction, f), mutant(flat_mismatch_weights, old, new))


@pytest.mark.parametrize("correction", ["tis", "icepop", "sequence_mask"])
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("old_logprobs - rollout_logprobs,", "rollout_logprobs - old_logprobs,"),
        ("old_logprobs - rollout_logprobs,", "old_logprobs - rollout_logprobs.flip(0),"),
        ("torch.where(mask, old", "torch.where(mask.roll(1, 1), old"),
        ("mask, low, high) * mask", "mask, low, high) * mask.roll(1, 1)"),
        ("mask, low, high) * mask", "mask, low, high)"),
        ("mask, low, high) *", "mask, 1 / high, 1 / low + 0.1) *"),
    ],
)
def test_broken_weights_are_caught(correction, old, new):
    assert_caught(lambda f: check_weights(correction, f), mutant(mismatch_weights, old, new))


@pytest.mark.parametrize(
    ("correction", "old", "new"),
    [
        ("none", "torch.ones_like", "torch.zeros_like"),
        ("tis", "clamp(max=high)", "clamp(min=low, max=high)"),
        ("tis", ".clamp(max=high)", ""),
        ("icepop", "(ratio >= low) & ", ""),
        ("icepop", " & (ratio <= high)", ""),
        ("icepop", ", ratio, torch", ", torch.ones_like(ratio), torch"),
        ("icepop", "torch.zeros_like(ratio)", "ratio.clamp(low, high)"),
        ("sequence_mask", "(ratio >= low) & ", ""),
        ("sequence_mask", " & (ratio <= high)", ""),
        ("sequence_mask", "log_ratio.sum(dim=1, keepdim=True) / tokens", "log_ratio.sum(dim=1, keepdim=True)"),
        ("sequence_mask", "log_ratio.sum(dim=1, keepdim=True) / tokens", "log_ratio.mean(dim=1, keepdim=True)"),
        ("sequence_mask", "log_ratio.sum(dim=1, keepdim=True) / tokens", "log_ratio"),
        ("sequence_mask", "expand_as(log_ratio)", "flip(0).expand_as(log_ratio)"),
    ],
)
def test_broken_corrections_are_caught(monkeypatch, correction, old, new):
    monkeypatch.setitem(mismatch.CORRECTIONS, correction, mutant(CORRECTIONS[correction], old, new))
    assert_caught(lambda f: check_weights(correction, f), mismatch_weights)


def test_weights_by_hand():
    # Learner over sampler: 2, 1/2 and 1 in the first response (mean ratio 1), 4 in the second.
    old = torch.tensor([[2.0, 0.5, 1.0], [4.0, 99.0, 99.0]], dtype=torch.float64).log()
    mask = torch.tensor([[True, True, True], [True, False, False]])
    weights = {c: mismatch_weights(old, torch.zeros_like(old), mask, c, 0.9, 1.5) for c in CORRECTIONS}
    close(weights["none"], [[1, 1, 1], [1, 0, 0]])
    close(weights["tis"], [[1.5, 0.5, 1], [1.5, 0, 0]])
    close(weights["icepop"], [[0, 0, 1], [0, 0, 0]])
    close(weights["sequence_mask"], [[1, 1, 1], [0, 0, 0]])


def check_stats(function):
    old, rollout, mask = _pair()
    weights = mismatch_weights(old, rollout, mask, "icepop", LOW, HIGH)
    sums = function(flat(old, mask), flat(rollout, mask), flat(weights, mask))
    got = {name: torch.tensor(value, dtype=torch.float64) for name, value in mean_stats(sums, "tokens").items()}
    where = mask.nonzero().tolist()
    gaps = [abs(old[i][t].item() - rollout[i][t].item()) for i, t in where]
    # By its definition: samples of the sampler, learner over sampler.
    ratio = [math.exp(old[i][t].item()) / math.exp(rollout[i][t].item()) for i, t in where]
    close(got["mismatch_max"], max(gaps))
    close(got["mismatch_mean"], sum(gaps) / len(gaps))
    close(got["mismatch_kl"], sum(r - 1 - math.log(r) for r in ratio) / len(ratio))
    dropped = [r < LOW or r > HIGH for r in ratio]
    close(got["corrected_to_zero"], sum(dropped) / len(ratio))
    close(
        got["corrected"],
        sum(d or abs(r - 1) > 0.01 for d, r in zip(dropped, ratio, strict=True)) / len(ratio),
    )


def test_stats_match_their_definitions():
    check_stats(mismatch_stats)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("kl_estimate(rollout_logprobs, old_logprobs", "kl_estimate(old_logprobs, rollout_logprobs"),
        ("gap.max()", "(old_logprobs - rollout_logprobs).max() * 0"),
        ("(old_logprobs - rollout_logprobs).abs()", "(old_logprobs - rollout_logprobs)"),
        ("(old_logprobs - rollout_logprobs).abs()", "(old_logprobs - rollout_logprobs.flip(0)).abs()"),
        ("(weights == 0)", "(weights != 0)"),
        ("> _NOTICEABLE", "< _NOTICEABLE"),
        ("gap.sum()", "gap.mean()"),
    ],
)
def test_broken_stats_are_caught(old, new):
    assert_caught(check_stats, mutant(mismatch_stats, old, new))


def test_what_none_and_truncation_report():
    old = torch.tensor([2.0, 1.005, 0.5, 1.0], dtype=torch.float64).log()
    sampled, lengths = torch.zeros_like(old), torch.tensor([4])
    for correction, corrected, zero in (("none", 0, 0), ("tis", 0.5, 0), ("icepop", 0.5, 0.5), ("sequence_mask", 0, 0)):
        weights = flat_mismatch_weights(old, sampled, lengths, correction, 0.9, 1.5)
        stats = mean_stats(mismatch_stats(old, sampled, weights), "tokens")
        assert stats["corrected"] == corrected
        assert stats["corrected_to_zero"] == zero
        assert stats["mismatch_max"] == pytest.approx(math.log(2))
