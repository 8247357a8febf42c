"""Confidence intervals for evaluation."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

_RESAMPLES = 10_000


@dataclass(frozen=True)
class Interval:
    """An estimate with a confidence interval [low, high]."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class WinTieLoss:
    """Counts of prompts on which a beats, equals, or falls behind b; and (wins − losses) / n with its interval."""

    wins: int
    ties: int
    losses: int
    net: Interval


def win_tie_loss(
    a: ArrayLike, b: ArrayLike, tolerance: float = 0.0, seed: int = 0, confidence: float = 0.95
) -> WinTieLoss:
    """Compare two policies' scores on the same prompts, a[i] against b[i]; |a − b| ≤ tolerance is a tie.

    The interval is a percentile bootstrap over prompts (Efron & Tibshirani 1993, chapter 13), seeded. Drawing n
    outcomes with replacement is a multinomial draw of the three counts, which is what is sampled.
    """
    x, y = _numbers(a, "a"), _numbers(b, "b")
    if x.shape != y.shape:
        raise ValueError(f"a and b expect one length, got {x.size} and {y.size}")
    difference = x - y
    wins = int((difference > tolerance).sum())
    losses = int((difference < -tolerance).sum())
    n = x.size
    ties = n - wins - losses
    draws = np.random.default_rng(seed).multinomial(n, [wins / n, ties / n, losses / n], size=_RESAMPLES)
    net = (draws[:, 0] - draws[:, 2]) / n
    return WinTieLoss(wins, ties, losses, _percentiles((wins - losses) / n, net, confidence))


def mean_interval(x: ArrayLike, seed: int = 0, confidence: float = 0.95) -> Interval:
    """Mean of x [n] with a percentile bootstrap interval, seeded."""
    values = _numbers(x, "x")
    rng = np.random.default_rng(seed)
    # One hundred resamples at a time, so memory stays at 100 · n numbers.
    means = [values[rng.integers(0, values.size, (100, values.size))].mean(axis=1) for _ in range(_RESAMPLES // 100)]
    return _percentiles(float(values.mean()), np.concatenate(means), confidence)


def wilson_interval(k: float, n: int, confidence: float = 0.95) -> Interval:
    """Share k/n of successes with Wilson's score interval (Wilson 1927); stays within [0, 1] at k = 0 and k = n.

    A tie may count one half in k.
    """
    if n <= 0 or not 0 <= k <= n:
        raise ValueError(f"k and n expect 0 <= k <= n and n > 0, got k={k}, n={n}")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = k / n
    scale = 1 + z * z / n
    centre = (share + z * z / (2 * n)) / scale
    half = z / scale * (share * (1 - share) / n + z * z / (4 * n * n)) ** 0.5
    return Interval(share, max(0.0, centre - half), min(1.0, centre + half))


def _numbers(x: ArrayLike, name: str) -> NDArray[np.float64]:
    values = np.asarray(x, dtype=np.float64)
    if values.ndim != 1 or values.size == 0 or not np.isfinite(values).all():
        raise ValueError(f"{name} expects a non-empty list of finite numbers, got shape {values.shape}")
    return values


def _percentiles(estimate: float, draws: NDArray[np.float64], confidence: float) -> Interval:
    tail = (1 - confidence) / 2
    bounds: Sequence[float] = np.quantile(draws, [tail, 1 - tail]).tolist()
    return Interval(estimate, bounds[0], bounds[1])
