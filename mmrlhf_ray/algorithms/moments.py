"""Running mean and standard deviation of scores, for normalising them across steps."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

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
        """(values − mean) / std, float64 [N]. While std ≤ eps there is no unit yet: only the mean is taken off.

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


def _finite(values: Values) -> NDArray[np.float64]:
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or not np.isfinite(x).all():
        raise ValueError(f"values expects a flat list of finite numbers, got {x.tolist()}")
    return x
