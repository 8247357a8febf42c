"""Switches that the chosen algorithm would ignore are refused."""

import pytest

from mmrlhf_ray.config import AlgorithmConfig


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"policy_loss": "cispo", "dual_clip": 3.0}, "dual_clip has no place in policy_loss=cispo"),
        ({"advantage_estimator": "rloo", "n_samples_per_prompt": 4, "gamma": 0.9}, "gamma=0.9 has no effect"),
        ({"clip_range": None, "clip_range_high": 0.3}, "need a clip_range"),
        ({"advantage_estimator": "grpo"}, "n_samples_per_prompt to 2 or more, got 1"),
    ],
)
def test_refused(keys, message):
    with pytest.raises(ValueError, match=message):
        AlgorithmConfig(**keys)


@pytest.mark.parametrize(
    "keys",
    [
        {"policy_loss": "gspo", "dual_clip": 3.0},
        {"advantage_estimator": "reinforce", "gamma": 0.0},
        {"advantage_estimator": "rloo", "n_samples_per_prompt": 4},
        {"clip_range": None},
    ],
)
def test_accepted(keys):
    assert AlgorithmConfig(**keys).model_fields_set == set(keys)
