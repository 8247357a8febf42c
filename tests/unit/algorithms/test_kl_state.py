import json

import pytest

from mmrlhf_ray.algorithms.kl import AdaptiveKL


def test_without_a_target_the_coefficient_is_fixed():
    assert AdaptiveKL(0.05).update(100.0, 64) == AdaptiveKL(0.05)


def test_update_leaves_the_old_state_alone():
    state = AdaptiveKL(0.05, kl_target=1.0, kl_horizon=64)
    assert state.update(2.0, 64).kl_coef == pytest.approx(0.06)
    assert state.kl_coef == 0.05


def test_a_step_larger_than_the_horizon_moves_by_the_clipped_error_at_most():
    state = AdaptiveKL(0.05, kl_target=1.0, kl_horizon=10)
    assert state.update(0.0, 1000).kl_coef == pytest.approx(0.04)


def test_round_trip_through_json():
    state = AdaptiveKL(0.05, 3.0, 100.0).update(5.0, 8)
    assert AdaptiveKL.from_dict(json.loads(json.dumps(state.to_dict()))) == state


@pytest.mark.parametrize("kl", [float("nan"), float("inf")])
def test_a_kl_that_is_not_finite_is_refused(kl):
    with pytest.raises(ValueError, match="finite"):
        AdaptiveKL(0.05, 3.0).update(kl, 8)
