"""What form explains of scores, and temperatures, against sums and searches in plain Python."""

import math

import numpy as np
import pytest

from mmrlhf_ray.algorithms.score_fit import FORM, form_coefficients, log_length, repetition, temperature
from tests.golden.support import assert_caught, mutant

ROWS = [4, 4, 9, 9, 9, 1, 1, 7]
SCORES = [0.5, -1.0, 2.0, 1.5, -0.25, 3.0, 2.5, 40.0]
FORM_VALUES = [[1.0, 0.3], [2.5, 0.1], [0.5, 0.0], [4.0, 0.9], [3.0, 0.2], [1.0, 0.8], [1.5, 0.4], [99.0, 5.0]]
DIFFERENCES = [2.0, -0.5, 1.0, 3.0, -2.0, 0.25, 0.0]


def reference_coefficients() -> list[float]:
    """By sums over all pairs of one row (of n responses each counts 1/n) and Cramer's rule."""
    xx, yy, xy, xs, ys = 0.0, 0.0, 0.0, 0.0, 0.0
    for i in range(len(ROWS)):
        for j in range(i):
            if ROWS[i] == ROWS[j]:
                share = 1 / ROWS.count(ROWS[i])
                dx, dy = (FORM_VALUES[i][k] - FORM_VALUES[j][k] for k in (0, 1))
                ds = SCORES[i] - SCORES[j]
                xx, yy, xy = xx + share * dx * dx, yy + share * dy * dy, xy + share * dx * dy
                xs, ys = xs + share * dx * ds, ys + share * dy * ds
    determinant = xx * yy - xy * xy
    return [(xs * yy - ys * xy) / determinant, (ys * xx - xs * xy) / determinant]


def reference_temperature(differences: list[float]) -> float:
    """By a search for the smallest loss, ever finer."""
    best, step = 1.0, 0.5
    while step > 1e-12:
        losses = {t: sum(math.log1p(math.exp(-d / t)) for d in differences) for t in (best - step, best, best + step)}
        nearest = min(losses, key=lambda t: losses[t])
        step, best = (step / 2, best) if nearest == best else (step, nearest)
    return best


def check_coefficients(function):
    got = function(np.array(SCORES), np.array(FORM_VALUES), np.array(ROWS))
    assert got.tolist() == pytest.approx(reference_coefficients(), rel=1e-10)


def check_temperature(function):
    got = function(np.array(DIFFERENCES))
    # The loss is flat at its minimum, so that a search for it knows half of the digits.
    assert got == pytest.approx(reference_temperature(DIFFERENCES), rel=1e-6)
    gradient = sum(-d / (1 + math.exp(d / got)) for d in DIFFERENCES)
    assert gradient == pytest.approx(0.0, abs=1e-10)


CHECKS = {form_coefficients: check_coefficients, temperature: check_temperature}
MUTANTS = {
    form_coefficients: [
        ("within = form - np", "within = form + np"),
        ("np.bincount(numbers, column) / counts", "np.bincount(numbers, column)"),
        ("mean[numbers] for mean", "mean[numbers[::-1]] for mean"),
        ("lstsq(within, scores,", "lstsq(within, -scores,"),
        ("lstsq(within, scores,", "lstsq(form, scores,"),
    ],
    temperature: [
        ("(-differences *", "(differences *"),
        ("_sigmoid(-middle", "_sigmoid(middle"),
        ("2.0 / (low + high)", "0.5 * (low + high)"),
    ],
}


@pytest.mark.parametrize("function", CHECKS, ids=lambda f: f.__name__)
def test_matches_the_reference(function):
    CHECKS[function](function)


@pytest.mark.parametrize(
    ("function", "old", "new"),
    [(function, old, new) for function, pieces in MUTANTS.items() for old, new in pieces],
    ids=lambda x: getattr(x, "__name__", None),
)
def test_broken_fits_are_caught(function, old, new):
    assert_caught(CHECKS[function], mutant(function, old, new))


def test_form_by_hand():
    assert list(FORM) == ["length", "repetition"]
    assert log_length([]) == 0.0
    assert log_length([5, 5, 5]) == pytest.approx(math.log(4))
    # Four runs of three tokens, of which 1 2 1 and 2 1 2 come twice.
    assert repetition([1, 2, 1, 2, 1, 2]) == 0.5
    assert (repetition([1, 1]), repetition([1, 2, 3, 4])) == (0.0, 0.0)


def test_coefficients_by_hand():
    # Within each row the longer response scores 2 more per unit; between rows it is the other way round.
    scores, form = np.array([0.0, 2.0, -10.0, -8.0]), np.array([[0.0], [1.0], [10.0], [11.0]])
    assert form_coefficients(scores, form, np.array([0, 0, 1, 1])).tolist() == pytest.approx([2.0])
    still = form_coefficients(scores, np.ones((4, 1)), np.array([0, 0, 1, 1]))
    assert still.tolist() == [0.0], "what never differs explains nothing"
    with pytest.raises(ValueError, match=r"shapes \[N\], \[N, F\], \[N\], got \[4\], \[4, 1\], \[3\]"):
        form_coefficients(scores, form, np.arange(3))


def test_temperature_by_hand():
    # Right in three of four at a difference of 1: σ(1/T) = 3/4.
    assert temperature(np.array([1.0, 1.0, 1.0, -1.0])) == pytest.approx(1 / math.log(3))
    assert temperature(np.array([1.0, 2.0])) == pytest.approx(1 / 20)
    assert temperature(np.array([-1.0, -2.0])) == pytest.approx(20)
    with pytest.raises(ValueError, match="one pair or more"):
        temperature(np.array([]))
