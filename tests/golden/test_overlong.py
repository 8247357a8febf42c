"""The overlong penalty against the reference and by hand."""

import pytest
import torch

from mmrlhf_ray.algorithms.advantages import overlong_penalty
from tests.golden import reference
from tests.golden.support import assert_caught, close, mutant


def check(function):
    lengths = list(range(1, 14))
    for longest, buffer, penalty in ((10, 4, 1.0), (12, 12, 0.5), (8, 1, 2.0)):
        want = [reference.overlong(length, longest, buffer, penalty) for length in lengths]
        close(function(torch.tensor(lengths), longest, buffer, penalty), want)


def test_overlong_penalty_matches_the_reference():
    check(overlong_penalty)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("-penalty *", "penalty *"),
        ("-penalty *", "-1 *"),
        ("excess / buffer_tokens", "excess"),
        ("(max_response_tokens - buffer_tokens)", "max_response_tokens"),
        (".clamp(0.0, 1.0)", ".clamp(0.0)"),
        (".clamp(0.0, 1.0)", ".clamp(max=1.0)"),
        ("lengths.to(", "lengths.flip(0).to("),
    ],
)
def test_a_broken_penalty_is_caught(old, new):
    assert_caught(check, mutant(overlong_penalty, old, new))


def test_by_hand():
    close(overlong_penalty(torch.tensor([6, 7, 9, 10, 11]), 10, 4, 2.0), [0.0, -0.5, -1.5, -2.0, -2.0])
