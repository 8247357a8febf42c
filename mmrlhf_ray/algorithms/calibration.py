"""Do probabilities mean what they say? Reliability bins, expected calibration error, Brier score."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class CalibrationBin:
    """`count` cases with about the same probability: its mean, and the share in which the event happened."""

    predicted: float
    right: float
    count: int


@dataclass(frozen=True)
class Calibration:
    """Bins that hold any case, from low to high probability; both errors lie in [0, 1], 0 is perfect."""

    bins: tuple[CalibrationBin, ...]
    expected_calibration_error: float
    brier: float


def calibration(probabilities: ArrayLike, outcomes: ArrayLike, bins: int = 10, low: float = 0.0) -> Calibration:
    """Compare probabilities [n] in [low, 1] with outcomes [n] in [0, 1]: 1 = it happened, one half = half of each.

    Equal-width bins over [low, 1]. Expected calibration error: Σ over bins of count/n · |right − predicted| (Guo et
    al. 2017, "On Calibration of Modern Neural Networks", equation 3). Brier score: mean of (p − outcome)² (Brier
    1950). Raises ValueError for empty lists, different lengths and numbers outside their range.
    """
    p, happened = _numbers(probabilities, "probabilities", low), _numbers(outcomes, "outcomes", 0.0)
    if p.size != happened.size:
        raise ValueError(f"probabilities and outcomes expect one length, got {p.size} and {happened.size}")
    if bins < 1:
        raise ValueError(f"bins expects 1 or more, got {bins}")
    number = np.minimum(((p - low) / (1.0 - low) * bins).astype(np.int64), bins - 1)
    found = tuple(
        CalibrationBin(float(p[number == b].mean()), float(happened[number == b].mean()), int((number == b).sum()))
        for b in np.unique(number)
    )
    error = sum(b.count * abs(b.right - b.predicted) for b in found) / p.size
    brier = happened * (1.0 - p) ** 2 + (1.0 - happened) * p**2
    return Calibration(found, float(error), float(brier.mean()))


def pair_calibration(differences: ArrayLike, bins: int = 10) -> Calibration:
    """Calibration of a reward model over pairs; differences [n] = score of the chosen − score of the rejected.

    The model prefers one response of each pair with confidence max(p, 1 − p), p = σ(difference), and is right where
    that one is the chosen (a tie: half right). Taking p itself would say nothing, since the chosen response is
    preferred in every pair by definition. Bins span [½, 1].
    """
    d = np.asarray(differences, dtype=np.float64)
    confidence = 1.0 / (1.0 + np.exp(-np.abs(d)))
    return calibration(confidence, 0.5 * (np.sign(d) + 1.0), bins, low=0.5)


def _numbers(x: ArrayLike, name: str, low: float) -> NDArray[np.float64]:
    values = np.asarray(x, dtype=np.float64)
    if values.ndim != 1 or not values.size or not ((values >= low) & (values <= 1.0)).all():
        raise ValueError(f"{name} expects a non-empty list of numbers in [{low}, 1], got {values}")
    return values
