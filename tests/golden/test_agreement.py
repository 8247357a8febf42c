"""Agreement of two orders, against the pairs counted one by one, and by hand."""

import math

import numpy as np
import pytest

from mmrlhf_ray.algorithms.agreement import order_agreement
from tests.golden.support import assert_caught, mutant

ONE = [0.5, 2.0, -1.0, 0.5, 3.0, math.nan, 1.0, 0.0]
OTHER = [1.0, 0.5, -2.0, 0.0, 4.0, 1.0, -1.0, -1.0]
GROUPS = [3, 3, 3, 3, 8, 8, 8, 9]


def reference() -> float:
    right = pairs = 0.0
    for i in range(len(ONE)):
        for j in range(i):
            if GROUPS[i] == GROUPS[j] and not math.isnan(ONE[i]) and not math.isnan(ONE[j]):
                pairs += 1
                if ONE[i] == ONE[j] or OTHER[i] == OTHER[j]:
                    right += 0.5
                elif (ONE[i] > ONE[j]) == (OTHER[i] > OTHER[j]):
                    right += 1
    return right / pairs


def check(function):
    assert function(ONE, OTHER, GROUPS) == pytest.approx(reference(), rel=1e-12)


def test_matches_the_reference():
    check(order_agreement)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("np.sign(b[i] - b[j])", "np.sign(b[j] - b[i])"),
        ("(owners == group)", "(owners >= 0)"),
        ("np.sign(a[i] - a[j]) *", "np.sign(a[i] - a[j] + 0.1) *"),
        ("0.5 * (1.0 + sum", "(0.0 + sum"),
    ],
)
def test_broken_ones_are_caught(old, new):
    assert_caught(check, mutant(order_agreement, old, new))


def test_by_hand():
    assert order_agreement([1, 2, 3], [10, 20, 30], [0, 0, 0]) == 1.0
    assert order_agreement([1, 2], [2, 1], [0, 0]) == 0.0
    assert order_agreement([1, 2], [5, 5], [0, 0]) == 0.5
    assert math.isnan(order_agreement([1, 2], [1, 2], [0, 1]))
    with pytest.raises(ValueError, match="one shape"):
        order_agreement(np.zeros(2), np.zeros(3), np.zeros(2))
