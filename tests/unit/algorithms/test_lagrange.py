import json

import numpy as np
import pytest
import torch

from mmrlhf_ray.algorithms.lagrange import LagrangeMultiplier, lagrangian_score
from tests.golden.support import assert_caught, mutant


def check_update(update):
    for start, cost, want in ((1.0, 0.7, 1.1), (1.0, 0.2, 1.0), (1.0, 0.0, 0.96), (0.02, 0.0, 0.0), (2.9, 9.0, 3.0)):
        state = update(LagrangeMultiplier(integral=start, bound=0.2, lr=0.2, maximum=3.0), cost)
        assert state.value == pytest.approx(want)
        # What is below 0 or above the maximum is forgotten.
        assert state.integral == pytest.approx(want)


def test_update_by_hand():
    check_update(LagrangeMultiplier.update)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("mean_cost - self.bound", "self.bound - mean_cost"),
        ("mean_cost - self.bound", "mean_cost"),
        ("self.lr * ", ""),
        ("self.integral + ", ""),
        ("self._within", ""),
    ],
)
def test_broken_updates_are_caught(old, new):
    assert_caught(check_update, mutant(LagrangeMultiplier.update, old, new))


def check_damping(value):
    # 1.0 + 0.5 · (0.6 − 0.2), 1.0 + 0.5 · (0.0 − 0.2); the integral alone before the first step.
    for excess, want in ((0.4, 1.2), (-0.2, 0.9), (0.0, 1.0), (9.0, 3.0), (-9.0, 0.0)):
        assert value(LagrangeMultiplier(1.0, 0.2, 0.2, 3.0, damping=0.5, excess=excess)) == pytest.approx(want)


def test_damping_by_hand():
    check_damping(LagrangeMultiplier.value.fget)
    state = LagrangeMultiplier(1.0, 0.2, 0.2, 3.0, damping=0.5).update(0.7)
    assert (state.integral, state.excess) == (pytest.approx(1.1), pytest.approx(0.5))
    assert state.value == pytest.approx(1.35)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("+ self.damping", "- self.damping"),
        ("self.damping * self.excess", "self.excess"),
        ("self.integral + ", ""),
        ("self._within", ""),
    ],
)
def test_broken_damping_is_caught(old, new):
    assert_caught(check_damping, mutant(LagrangeMultiplier.value.fget, old, new).fget)


def test_damping_ends_swings():
    # A policy that answers late: its cost moves by what λ was, a little at a time.
    def swing(damping):
        state, cost, costs = LagrangeMultiplier(0.0, 1.0, 0.02, 9.0, damping=damping), 2.0, []
        for _ in range(200):
            cost += 0.5 * (0.5 - state.value)
            state = state.update(cost)
            costs.append(cost)
        return max(abs(c - 1.0) for c in costs[-50:])

    assert swing(0.0) > 1.0
    assert swing(0.3) < 0.05


def check_score(function):
    for reward, cost, multiplier in ((2.0, 0.5, 3.0), (-1.0, 2.0, 0.25), (2.0, 5.0, 0.0)):
        # A convex mixture of the reward and of minus the cost.
        share = multiplier / (1 + multiplier)
        assert function(reward, cost, multiplier) == pytest.approx((1 - share) * reward + share * -cost)


def test_score_is_a_mixture():
    check_score(lagrangian_score)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("reward - multiplier * cost", "reward + multiplier * cost"),
        ("reward - multiplier * cost", "reward - cost"),
        (" / (1.0 + multiplier)", ""),
        ("reward - multiplier", "multiplier - reward"),
    ],
)
def test_broken_scores_are_caught(old, new):
    assert_caught(check_score, mutant(lagrangian_score, old, new))


def test_score_by_hand_of_arrays_and_tensors():
    # (2 - 3 * 0.5) / 4 and (1 - 3 * 1) / 4.
    assert lagrangian_score(np.array([2.0, 1.0]), np.array([0.5, 1.0]), 3.0).tolist() == [0.125, -0.5]
    assert lagrangian_score(torch.tensor([2.0, 1.0]), torch.tensor([0.5, 1.0]), 3.0).tolist() == [0.125, -0.5]


def test_the_multiplier_holds_a_cost_at_its_bound():
    # The reward's optimum has cost 1; against λ the policy settles at cost 1 / (1 + λ), at the bound 0.25 for λ = 3.
    state = LagrangeMultiplier(integral=0.0, bound=0.25, lr=0.5, maximum=100.0)
    for _ in range(400):
        state = state.update(1 / (1 + state.value))
    assert state.value == pytest.approx(3.0, rel=1e-3)
    for _ in range(400):
        state = state.update(0.1)
    assert state.value == 0.0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused(bad):
    with pytest.raises(ValueError, match="mean_cost expects a finite number"):
        LagrangeMultiplier(1.0, 0.0, 0.1, 10.0).update(bad)
    with pytest.raises(ValueError, match="multiplier expects a finite number"):
        lagrangian_score(1.0, 1.0, bad)
    with pytest.raises(ValueError, match="at least 0, got -1"):
        lagrangian_score(1.0, 1.0, -1.0)


def test_round_trip_through_json():
    state = LagrangeMultiplier(1.0, 0.2, 0.1, 10.0).update(0.7)
    assert LagrangeMultiplier.from_dict(json.loads(json.dumps(state.to_dict()))) == state
