"""Ratings against solutions written out, a second algorithm, and voters whose truth is known."""

import math

import numpy as np
import pytest

from mmrlhf_ray.algorithms.bradley_terry import bradley_terry
from mmrlhf_ray.algorithms.statistics import Interval

Z = 1.959963984540054


def ratings(found: list[Interval | None]) -> list[float]:
    return [interval.estimate for interval in found if interval is not None]


def test_two_players_by_hand() -> None:
    """30 wins of 40: σ(θ₁ − θ₂) = 3/4, so θ₁ − θ₂ = ln 3, with variance 1 / (40 · 3/4 · 1/4) = 2/15."""
    one, other = bradley_terry([[0, 30], [10, 0]], np.zeros((2, 2)))
    assert one is not None
    assert other is not None
    assert one.estimate == pytest.approx(math.log(3) / 2)
    assert other.estimate == pytest.approx(-math.log(3) / 2)
    half = Z * math.sqrt(2 / 15) / 2
    assert (one.low, one.high) == pytest.approx((math.log(3) / 2 - half, math.log(3) / 2 + half))


def test_ties_are_half_wins_that_vary_less() -> None:
    """20 wins and 20 ties score 30 of 40 as well; squared residuals are 40 · 1/16 = 5/2, so the variance of the
    difference is 5/2 / (15/2)² = 2/45, a third of that without ties."""
    one, _ = bradley_terry([[0, 20], [0, 0]], [[0, 20], [20, 0]])
    assert one is not None
    assert one.estimate == pytest.approx(math.log(3) / 2)
    assert (one.high - one.low) / 2 == pytest.approx(Z * math.sqrt(2 / 45) / 2)


def minorise(scores: np.ndarray) -> np.ndarray:
    """The same maximum by another way: π_i ← Σ_j s_ij / Σ_j n_ij / (π_i + π_j) (Hunter 2004)."""
    games, strength = scores + scores.T, np.ones(len(scores))
    for _ in range(20_000):
        strength = scores.sum(axis=1) / (games / (strength[:, None] + strength[None, :])).sum(axis=1)
        strength /= np.exp(np.log(strength).mean())
    return np.log(strength)


def test_five_players_against_a_second_algorithm() -> None:
    rng = np.random.default_rng(3)
    wins = rng.integers(0, 30, (5, 5)) * np.arange(1, 6)[:, None]
    np.fill_diagonal(wins, 0)
    ties = np.triu(rng.integers(0, 9, (5, 5)), 1)
    ties = ties + ties.T
    found = ratings(bradley_terry(wins, ties))
    assert found == pytest.approx(minorise(wins + ties / 2).tolist(), abs=1e-8)
    assert sum(found) == pytest.approx(0)


def test_the_order_of_the_players_changes_nothing() -> None:
    wins = np.array([[0, 9, 4], [3, 0, 7], [5, 2, 0]])
    ties = np.array([[0, 1, 0], [1, 0, 6], [0, 6, 0]])
    order = [2, 0, 1]
    straight, turned = bradley_terry(wins, ties), bradley_terry(wins[np.ix_(order, order)], ties[np.ix_(order, order)])
    assert ratings(turned) == pytest.approx([ratings(straight)[player] for player in order])


def test_who_lost_everything_has_no_rating_yet() -> None:
    wins = np.array([[0, 5, 3, 0], [2, 0, 4, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    found = bradley_terry(wins, np.zeros((4, 4)))
    assert [interval is None for interval in found] == [False, False, True, True]
    assert ratings(found) == pytest.approx([math.log(5 / 2) / 2, -math.log(5 / 2) / 2])
    assert bradley_terry([[0, 3], [0, 0]], np.zeros((2, 2))) == [None, None]
    assert bradley_terry(np.zeros((3, 3)), np.zeros((3, 3))) == [None, None, None]


def test_a_favourite_by_far_converges() -> None:
    found = ratings(bradley_terry([[0, 100_000], [1, 0]], np.zeros((2, 2))))
    assert found[0] - found[1] == pytest.approx(math.log(100_000))


def test_intervals_cover_the_truth_of_simulated_voters_at_their_rate() -> None:
    """400 tournaments of 240 votes among four players, one vote in five a tie: 1,600 intervals, of which 95 % should
    hold the truth."""
    truth = np.array([0.6, 0.2, -0.1, -0.7])
    rng = np.random.default_rng(0)
    inside = []
    for _ in range(400):
        wins, ties = np.zeros((4, 4)), np.zeros((4, 4))
        for _ in range(240):
            i, j = rng.choice(4, 2, replace=False)
            share = 1 / (1 + math.exp(truth[j] - truth[i]))
            drawn = rng.random()
            if drawn < share - 0.1:
                wins[i, j] += 1
            elif drawn < share + 0.1:
                ties[i, j] += 1
                ties[j, i] += 1
            else:
                wins[j, i] += 1
        for interval, rating in zip(bradley_terry(wins, ties), truth, strict=True):
            assert interval is not None
            inside.append(interval.low <= rating <= interval.high)
    assert 0.93 < np.mean(inside) < 0.97


@pytest.mark.parametrize(
    ("wins", "ties", "said"),
    [
        ([[0, 1]], [[0, 1]], "two matrices"),
        ([[0, -1], [0, 0]], [[0, 0], [0, 0]], "counts of 0 or more"),
        ([[0, 1], [0, 0]], [[0, 1], [0, 0]], "symmetric"),
        ([[1, 1], [0, 0]], [[0, 0], [0, 0]], "meets itself"),
    ],
)
def test_counts_that_make_no_sense_are_refused(wins: list[list[int]], ties: list[list[int]], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        bradley_terry(wins, ties)
