"""Adding up the statistics that losses return, running moments of scores, and confidence intervals for evaluation.

Loads torch only where tensors are made: intervals are also for pages that must come at once.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from torch import Tensor

MAX_SUFFIX = "_max"

Stats = dict[str, "Tensor"]


def merge_stats(parts: "Iterable[Mapping[str, Tensor]]") -> Stats:
    """Combine the statistics of several micro-batches or ranks: maxima by maximum, all else by sum."""
    merged: Stats = {}
    for part in parts:
        for key, value in part.items():
            if key not in merged:
                merged[key] = value
            elif key.endswith(MAX_SUFFIX):
                merged[key] = merged[key].maximum(value)
            else:
                merged[key] = merged[key] + value
    return merged


def mean_stats(stats: "Mapping[str, Tensor]", count: str) -> dict[str, float]:
    """Sums divided by `stats[count]`; maxima and the count itself as they are.

    Raises ValueError when the count is missing or zero.
    """
    total = float(stats[count]) if count in stats else 0.0
    if total <= 0:
        raise ValueError(f"stats[{count!r}] expects a positive count, got {stats.get(count)}")
    return {
        key: float(value) if key == count or key.endswith(MAX_SUFFIX) else float(value) / total
        for key, value in stats.items()
    }


Values = Sequence[float] | NDArray[np.floating]


@dataclass(frozen=True)
class RunningMoments:
    """Moments of every value seen so far.

    Source: Chan, Golub & LeVeque 1979, "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances".
    """

    count: int = 0
    mean: float = 0.0
    m2: float = 0.0
    """Sum of squared differences from the mean."""

    def update(self, values: Values) -> "RunningMoments":
        """The moments with `values` [N] added, N may be 0.

        Raises ValueError when a value is not finite: it would spoil the moments for good.
        """
        x = _finite(values)
        if x.size == 0:
            return self
        count = self.count + x.size
        mean = float(x.mean())
        delta = mean - self.mean
        m2 = self.m2 + float(np.square(x - mean).sum()) + delta * delta * self.count * x.size / count
        return RunningMoments(count, self.mean + delta * x.size / count, m2)

    @property
    def std(self) -> float:
        """Unbiased standard deviation √(m2 / (count − 1)); 0 before the second value."""
        return math.sqrt(self.m2 / (self.count - 1)) if self.count > 1 else 0.0

    def normalise(self, values: Values, eps: float = 1e-8) -> NDArray[np.float64]:
        """(values − mean) / std, float64 [N]. While std ≤ eps there is no unit yet: only the mean is subtracted.

        Call `update` with the same values first, else the first outlier after a run of equal values is unbounded;
        so no value comes out larger than √count. Raises ValueError when a value is not finite.
        """
        std = self.std
        return (_finite(values) - self.mean) / (std if std > eps else 1.0)

    def to_dict(self) -> dict[str, float]:
        """For checkpoints."""
        return asdict(self)

    @classmethod
    def from_dict(cls, state: Mapping[str, float]) -> "RunningMoments":
        """The inverse of `to_dict`; raises TypeError on a key it does not know."""
        return cls(**state)  # type: ignore[arg-type]


def normalised_in_groups(values: Values, groups: Sequence[int]) -> NDArray[np.float64]:
    """Each value [N] in units of its group, as `advantages.grpo` has it, float64 [N]; `groups` [N] names its group.

    Raises ValueError when a value is not finite.
    """
    import torch

    from mmrlhf_ray.algorithms.advantages import grpo

    outcomes = torch.from_numpy(_finite(values))
    return grpo(outcomes, torch.tensor(groups, dtype=torch.int64)).numpy()


def _finite(values: Values) -> NDArray[np.float64]:
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or not np.isfinite(x).all():
        raise ValueError(f"values expects a flat list of finite numbers, got {x.tolist()}")
    return x


_RESAMPLES = 10_000


@dataclass(frozen=True)
class Interval:
    """An estimate with a confidence interval [low, high]; as text `0.500 [0.400, 0.600]`."""

    estimate: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        """The specification is of each of the three numbers; three digits after the point without one."""
        spec = spec or ".3f"
        return f"{self.estimate:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"

    def __str__(self) -> str:
        return format(self)


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
