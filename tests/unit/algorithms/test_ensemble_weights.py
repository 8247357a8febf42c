"""Resampling weights: Poisson counts that depend on row, head and seed alone."""

import math

import pytest
import torch

from mmrlhf_ray.algorithms import losses as reward_loss
from mmrlhf_ray.algorithms.losses import ensemble_weights
from tests.golden.support import mutant

ROWS = torch.arange(200_000)


def test_counts_are_poisson_with_mean_one():
    counts = ensemble_weights(ROWS, 3, seed=0)
    assert counts.shape == (3, len(ROWS))
    assert counts.dtype == torch.float32
    for k in range(6):
        expected = math.exp(-1) / math.factorial(k)
        share = (counts == k).double().mean(dim=1)
        # Five standard errors of a share.
        assert ((share - expected).abs() < 5 * math.sqrt(expected / len(ROWS))).all(), (k, share, expected)


def test_a_count_depends_on_nothing_but_row_head_and_seed():
    whole = ensemble_weights(ROWS[:1000], 4, seed=11)
    order = torch.randperm(1000, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ensemble_weights(order, 4, seed=11), whole[:, order])
    torch.testing.assert_close(ensemble_weights(ROWS[300:310], 4, seed=11), whole[:, 300:310])
    torch.testing.assert_close(ensemble_weights(ROWS[:1000], 2, seed=11), whole[:2])


def test_the_same_on_every_machine_and_in_every_version():
    frozen = [[1, 1, 1, 1, 2, 1, 2, 1], [3, 2, 1, 0, 0, 0, 3, 2]]
    assert ensemble_weights(torch.arange(8), 2, seed=7).int().tolist() == frozen


def test_heads_seeds_and_neighbouring_rows_are_independent():
    first, second = ensemble_weights(ROWS, 2, seed=0)
    other = ensemble_weights(ROWS, 1, seed=1)[0]
    for a, b in ((first, second), (first, other), (second, other), (first[1:], first[:-1]), (first[1:], second[:-1])):
        assert abs(torch.corrcoef(torch.stack([a, b]))[0, 1].item()) < 0.015


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("[None, :] ^ columns", "[None, :] ^ (columns * np.uint64(0))"),
        ("_splitmix64(key ^ rows)", "_splitmix64(rows)"),
        ("_splitmix64(key ^ rows)", "_splitmix64(key ^ np.arange(len(rows), dtype=np.uint64))"),
        ('side="right")', 'side="right") + 1'),
    ],
)
def test_broken_weights_are_caught(monkeypatch, old, new):
    broken = mutant(reward_loss.ensemble_weights, old, new)
    monkeypatch.setitem(globals(), "ensemble_weights", broken)
    checks = (
        test_counts_are_poisson_with_mean_one,
        test_a_count_depends_on_nothing_but_row_head_and_seed,
        test_heads_seeds_and_neighbouring_rows_are_independent,
    )
    failed = 0
    for check in checks:
        try:
            check()
        except AssertionError:
            failed += 1
    assert failed


def test_a_weighted_mean_over_heads_spreads_like_the_bootstrap():
    # The standard deviation over resamples of a mean of n numbers is theirs / sqrt(n).
    x = torch.randn(400, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weights = ensemble_weights(torch.arange(400), 2000, seed=5).double()
    means = (weights * x).sum(dim=1) / weights.sum(dim=1)
    assert means.std().item() == pytest.approx(x.std().item() / 20, rel=0.1)
    assert means.mean().item() == pytest.approx(x.mean().item(), abs=0.01)


@pytest.mark.parametrize(
    ("rows", "heads", "message"),
    [
        (torch.arange(3).int(), 2, "row_ids expects int64"),
        (torch.zeros(2, 2, dtype=torch.int64), 2, r"got torch.int64 \[2, 2\]"),
        (torch.arange(3), 0, "heads expects 1 or more, got 0"),
    ],
)
def test_refused(rows, heads, message):
    with pytest.raises(ValueError, match=message):
        ensemble_weights(rows, heads, seed=0)
