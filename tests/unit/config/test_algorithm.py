"""Switches that the chosen algorithm would ignore are refused."""

import pytest

from mmrlhf_ray.config import AlgorithmConfig


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"policy_loss": "cispo", "dual_clip": 3.0}, "dual_clip has no place in policy_loss=cispo"),
        ({"advantage_estimator": "rloo", "n_samples_per_prompt": 4, "gamma": 0.9}, "gamma=0.9 has no effect"),
        ({"clip_range": None, "dual_clip": 3.0}, "dual_clip needs a clip_range or clip_range_high; both are null"),
        ({"advantage_estimator": "grpo"}, "n_samples_per_prompt to 2 or more, got 1"),
        (
            {"old_logprobs": "sampler", "mismatch": {"correction": "tis"}},
            r"old_logprobs=sampler has nothing for mismatch.correction=tis to compare",
        ),
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
        {"clip_range": None, "clip_range_high": 0.3},
        {"clip_range": None, "clip_range_high": 0.3, "dual_clip": 3.0},
    ],
)
def test_accepted(keys):
    assert AlgorithmConfig(**keys).model_fields_set == set(keys)


@pytest.mark.parametrize(
    ("keys", "low", "high"),
    [
        ({}, 0.2, None),
        ({"clip_range": None, "clip_range_high": 0.3}, None, 0.3),
        ({"policy_loss": "gspo"}, 0.2, None),
        ({"policy_loss": "cispo"}, None, 4.0),
        ({"policy_loss": "cispo", "clip_range_high": 2.0}, None, 2.0),
        ({"policy_loss": "cispo", "clip_range": 0.5}, 0.5, None),
        ({"policy_loss": "cispo", "clip_range": 0.5, "clip_range_high": 3.0}, 0.5, 3.0),
        ({"policy_loss": "cispo", "clip_range": None}, None, None),
    ],
)
def test_bounds_of_the_ratio(keys, low, high):
    algorithm = AlgorithmConfig(**keys)
    assert (algorithm.clip_range, algorithm.clip_range_high) == (low, high)
    assert AlgorithmConfig.model_validate(algorithm.model_dump()) == algorithm, "what a run records means the same"


IN_LOSS = {"kl_in": "loss", "kl_estimator": "k3"}


@pytest.mark.parametrize(
    ("keys", "dropout", "later"),
    [
        (IN_LOSS, 0.0, "update"),
        ({"kl_coef": 0.0}, 0.0, "update"),
        (IN_LOSS | {"mismatch": {"correction": "tis"}}, 0.0, "update"),
        (IN_LOSS, 0.1, "learner"),
        (IN_LOSS | {"mini_batch_size": 32}, 0.0, "learner"),
        (IN_LOSS | {"ppo_epochs": 2}, 0.0, "learner"),
        (IN_LOSS | {"critic_warmup_steps": 4}, 0.0, "learner"),
        (IN_LOSS | {"critic_warmup_steps": 3}, 0.0, "update"),
        (IN_LOSS | {"old_logprobs": "learner"}, 0.0, "learner"),
        ({}, 0.0, "learner"),  # a KL in the reward
        ({"old_logprobs": "sampler"}, 0.0, "sampler"),
        (IN_LOSS | {"old_logprobs": "sampler", "ppo_epochs": 2}, 0.1, "sampler"),
    ],
)
def test_who_gives_old_logprobs(keys, dropout, later):
    algorithm = AlgorithmConfig(**keys)
    assert algorithm.prompts_per_step * algorithm.n_samples_per_prompt == 64
    assert algorithm.old_logprobs_from(0, dropout) == "learner", "the gate of step 0 compares them"
    assert algorithm.old_logprobs_from(3, dropout) == later
