import numpy as np
import pytest

from mmrlhf_ray.algorithms.statistics import Interval, mean_interval, wilson_interval, win_tie_loss


def test_win_tie_loss_by_hand():
    result = win_tie_loss([1.0, 2.0, 3.0, 0.0], [0.0, 2.05, 1.0, 5.0], tolerance=0.1)
    assert (result.wins, result.ties, result.losses) == (2, 1, 1)
    assert result.net.estimate == 0.25
    assert result.net.low <= 0.25 <= result.net.high


def test_win_tie_loss_turns_round_when_the_policies_are_exchanged():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=100), rng.normal(size=100)
    one, other = win_tie_loss(a, b), win_tie_loss(b, a)
    assert (one.wins, one.losses) == (other.losses, other.wins)
    assert one.net.estimate == -other.net.estimate


def test_win_tie_loss_is_seeded():
    a, b = np.arange(30.0), np.arange(30.0)[::-1]
    assert win_tie_loss(a, b, seed=1) == win_tie_loss(a, b, seed=1)


def test_a_clear_winner_excludes_zero_and_equals_do_not():
    clear = win_tie_loss(np.ones(50), np.zeros(50))
    assert (clear.net.low, clear.net.high) == (1.0, 1.0)
    even = win_tie_loss([1.0, 0.0] * 50, [0.0, 1.0] * 50)
    assert even.net.low < 0 < even.net.high


def test_the_bootstrap_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(7)
    trials, covered = 200, 0
    for seed in range(trials):
        outcome = rng.choice([-1.0, 0.0, 1.0], p=[0.2, 0.3, 0.5], size=120)
        net = win_tie_loss(outcome, np.zeros(120), seed=seed).net
        covered += net.low <= 0.3 <= net.high
    # 95 % of 200 is 190 with standard deviation 3.1; four of them either way.
    assert 177 <= covered <= 200


def test_mean_interval_agrees_with_the_normal_interval():
    x = np.random.default_rng(0).normal(3.0, 2.0, size=400)
    got = mean_interval(x)
    half = 1.96 * x.std() / 20
    assert got.estimate == pytest.approx(x.mean())
    assert got.low == pytest.approx(x.mean() - half, abs=0.02)
    assert got.high == pytest.approx(x.mean() + half, abs=0.02)


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    # Hand-computed with z = 1.959964.
    [(8, 10, 0.490162, 0.943318), (0, 10, 0.0, 0.277533), (10, 10, 0.722467, 1.0), (50, 100, 0.403830, 0.596170)],
)
def test_wilson_interval(k, n, low, high):
    got = wilson_interval(k, n)
    assert got.estimate == k / n
    assert (got.low, got.high) == pytest.approx((low, high), abs=1e-5)


@pytest.mark.parametrize(("k", "n"), [(1, 0), (-1, 3), (4, 3)])
def test_wilson_interval_refuses_impossible_counts(k, n):
    with pytest.raises(ValueError, match="0 <= k <= n"):
        wilson_interval(k, n)


@pytest.mark.parametrize("x", [[], [1.0, float("nan")], [[1.0]]])
def test_numbers_must_be_finite_and_flat(x):
    with pytest.raises(ValueError, match="non-empty list of finite numbers"):
        mean_interval(x)


def test_pairs_must_have_one_length():
    with pytest.raises(ValueError, match="one length, got 2 and 1"):
        win_tie_loss([1.0, 2.0], [1.0])


def test_an_interval_as_text():
    interval = Interval(0.5, -0.25, 1.0)
    assert f"{interval}" == str(interval) == "0.500 [-0.250, 1.000]"
    assert f"{interval:+.1f}" == "+0.5 [-0.2, +1.0]"
