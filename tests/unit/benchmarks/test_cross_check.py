"""What the comparison with other systems calls agreement, and that our side of it can be computed."""

import math

import pytest
import torch

from benchmarks import cross_check_ours as ours
from benchmarks.cross_check import Line, compare, gap, random_rows, table
from mmrlhf_ray.algorithms.policy_loss import Clip

OURS = ours.policy("ppo", Clip(0.2, 0.2), "token_mean")


@pytest.mark.parametrize(
    ("factor", "epsilon", "reason", "word"),
    [
        (1.0, 0.0, "", "agree"),
        (1.0 + 1e-9, 0.0, "", "DIFFER"),
        (1.0 + 1e-9, 1e-6, "", "agree"),
        (-1.0, 1e-6, "", "DIFFER"),
        (math.nan, 1e-6, "", "DIFFER"),
        (0.5, 0.0, "another mean", "by definition"),
        (1.0, 0.0, "another mean", "agree by now"),
    ],
)
def test_outcomes(factor: float, epsilon: float, reason: str, word: str) -> None:
    outcome = compare(Line("peer", "loss", OURS, lambda r: [x * factor for x in OURS(r)], epsilon, reason))
    assert outcome.word == word
    assert outcome.failed is (word == "DIFFER")
    assert word in table([outcome])


def test_a_gradient_that_differs_is_seen_where_the_value_agrees() -> None:
    outcome = compare(Line("peer", "loss", OURS, lambda r: [OURS(r)[0], -OURS(r)[1]]))
    assert outcome.word == "DIFFER"


def test_a_peer_that_cannot_be_called_any_more_fails() -> None:
    def gone(_: object) -> list[torch.Tensor]:
        raise AttributeError("no attribute 'loss'")

    outcome = compare(Line("peer", "loss", OURS, gone))
    assert outcome.failed
    assert "no attribute 'loss'" in table([outcome])


def test_differences_are_relative_above_one() -> None:
    assert gap([torch.tensor([101.0, 0.5])], [torch.tensor([100.0, 0.49])]) == pytest.approx(0.01, rel=1e-5)


@pytest.mark.parametrize("compared", [*ours.PREFERENCE.values(), *ours.ADVANTAGES.values(), ours.value, ours.entropy])
def test_our_side(compared: ours.Compared) -> None:
    assert all(x.isfinite().all() and x.abs().max() > 0 for x in compared(random_rows(0, torch.float64)))
