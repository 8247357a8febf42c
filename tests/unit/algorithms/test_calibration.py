"""Reliability bins, expected calibration error and Brier score, by hand and on what is known to be calibrated."""

import math

import numpy as np
import pytest

from mmrlhf_ray.algorithms.calibration import CalibrationBin, calibration, pair_calibration


def _logit(p: float) -> float:
    return math.log(p / (1 - p))


def test_by_hand():
    got = calibration([0.1, 0.15, 0.9, 1.0], [0, 1, 1, 1], bins=2)
    assert got.bins == (CalibrationBin(0.125, 0.5, 2), CalibrationBin(pytest.approx(0.95), 1.0, 2))
    assert got.expected_calibration_error == pytest.approx(0.5 * 0.375 + 0.5 * 0.05)
    assert got.brier == pytest.approx((0.01 + 0.85**2 + 0.01 + 0) / 4)


def test_edges_of_the_bins():
    # A bin holds its lower edge; 1 belongs to the last.
    counts = [b.count for b in calibration([0.0, 0.25, 0.5, 0.75, 1.0], [0] * 5, bins=4).bins]
    assert counts == [1, 1, 1, 2]
    assert [b.count for b in calibration([0.0, 1.0], [0, 1], bins=1).bins] == [2]


def test_empty_bins_are_left_out():
    assert len(calibration([0.05, 0.95], [0, 1], bins=10).bins) == 2


def test_perfect_and_worst():
    assert calibration([0.0, 1.0], [0, 1]).expected_calibration_error == 0
    assert calibration([0.0, 1.0], [1, 0]).expected_calibration_error == 1
    assert calibration([0.0, 1.0], [1, 0]).brier == 1


def test_half_an_outcome_is_half_of_each():
    assert calibration([0.8], [0.5]).brier == pytest.approx((0.2**2 + 0.8**2) / 2)


def test_pairs_by_hand():
    # Confident 0.8 in the chosen, 0.8 in the rejected, and a tie.
    got = pair_calibration([_logit(0.8), -_logit(0.8), 0.0], bins=5)
    assert got.bins == (CalibrationBin(0.5, 0.5, 1), CalibrationBin(pytest.approx(0.8), 0.5, 2))
    assert got.expected_calibration_error == pytest.approx(2 / 3 * 0.3)
    # The Brier score of P(chosen preferred) against its being preferred.
    assert got.brier == pytest.approx((0.2**2 + 0.8**2 + 0.5**2) / 3)


def test_bins_of_pairs_span_one_half_to_one():
    assert len(pair_calibration([_logit(0.65), _logit(0.75)], bins=5).bins) == 2


def test_large_differences_do_not_overflow():
    got = pair_calibration([1e6, -1e6])
    assert got.bins == (CalibrationBin(1.0, 0.5, 2),)


def test_pairs_drawn_from_the_model_are_calibrated_and_overconfident_ones_are_not():
    rng = np.random.default_rng(0)
    d = np.abs(rng.normal(0, 2, 40_000))
    drawn = np.where(rng.random(d.size) < 1 / (1 + np.exp(-d)), d, -d)
    assert pair_calibration(drawn).expected_calibration_error < 0.01
    assert pair_calibration(3 * drawn).expected_calibration_error > 0.08
    assert pair_calibration(-drawn).expected_calibration_error > 0.3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: calibration([], []), "probabilities expects a non-empty list"),
        (lambda: calibration([0.5, 1.5], [0, 1]), r"probabilities expects .* in \[0.0, 1\]"),
        (lambda: calibration([math.nan], [1]), "probabilities expects"),
        (lambda: calibration([0.4], [1], low=0.5), r"in \[0.5, 1\]"),
        (lambda: calibration([0.4], [2]), "outcomes expects"),
        (lambda: calibration([0.4], [1, 0]), "expect one length, got 1 and 2"),
        (lambda: calibration([0.4], [1], bins=0), "bins expects 1 or more, got 0"),
        (lambda: pair_calibration([math.nan]), "expects a non-empty list of numbers"),
        (lambda: pair_calibration([]), "non-empty"),
    ],
)
def test_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
