"""The log-sigmoid transformation, by probabilities and by hand."""

import math

import pytest

from mmrlhf_ray.algorithms.transform import log_sigmoid_score
from tests.golden.support import assert_caught, mutant


def check(function):
    for score, around in ((0.3, 0.3), (2.0, -1.0), (-4.5, 0.25), (30.0, 1.0), (-30.0, 1.0)):
        odds = math.exp(score) / math.exp(around)
        assert function(score, around) == pytest.approx(math.log(odds / (1 + odds)), rel=1e-10, abs=1e-15)


def test_matches_the_reference():
    check(log_sigmoid_score)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("score - around\n", "around - score\n"),
        ("min(difference", "max(difference"),
        ("- math.log1p", "+ math.log1p"),
        ("-abs(difference)", "abs(difference)"),
    ],
)
def test_broken_transformations_are_caught(old, new):
    assert_caught(check, mutant(log_sigmoid_score, old, new))


def test_by_hand():
    assert log_sigmoid_score(1.0, 1.0) == -math.log(2)
    assert log_sigmoid_score(1000.0, 0.0) == 0.0
    assert log_sigmoid_score(-1000.0, 0.0) == -1000.0
    assert math.isnan(log_sigmoid_score(math.nan, 0.0))
