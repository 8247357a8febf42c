"""The jobs of a round: which policy, which reward model, which data."""

from pathlib import Path

import pytest

from mmrlhf_ray.config import PPOConfig, PreferenceConfig
from mmrlhf_ray.config.rounds import (
    RoundPaths,
    evaluate_job,
    policy_after,
    reward_model_after,
    reward_model_job,
    sample_job,
    train_job,
)
from tests.unit.pipelines.loop import loop_config

RUN = Path("/runs/loop")
PREFERENCE = {"preference": {"epochs": 2, "beta": 0.2}}


def paths(number: int) -> RoundPaths:
    return RoundPaths(RUN, number)


def test_each_round_samples_from_the_policy_of_the_one_before():
    cfg = loop_config(sample={"temperature": 0.7, "n_samples_per_prompt": 5, "max_response_tokens": 9})
    first, second = sample_job(cfg, paths(1)), sample_job(cfg, paths(2))
    assert first.policy.path == "/model"
    assert second.policy.path == "/runs/loop/round-01/policy/model"
    assert (first.n_samples_per_prompt, first.sampling.temperature, first.sampling.max_response_tokens) == (5, 0.7, 9)
    assert first.seed != second.seed
    assert second.data.path == "/runs/loop/round-02/prompts"
    assert not first.ablate_media


def test_evaluations_differ_in_the_policy_alone():
    cfg = loop_config()
    before, after = evaluate_job(cfg, paths(0)), evaluate_job(cfg, paths(2))
    assert before.policy.path == "/model"
    assert before.reference is before.reward_model is None
    assert after.policy.path == "/runs/loop/round-02/policy/model"
    assert after.reference is not None
    assert after.reference.path == "/model"
    assert after.reward_model is not None
    assert after.reward_model.path == "/runs/loop/round-02/reward-model/model"
    assert (before.seed, before.data, before.sampling) == (after.seed, after.data, after.sampling)


def test_no_reference_is_given_to_ppo_that_uses_none():
    cfg = loop_config(train={"start": "previous", "ppo": {"steps": 2, "algorithm": {"kl_coef": 0}}})
    job = train_job(cfg, paths(3), heldout=True)
    assert (job.policy.path, job.reference) == ("/runs/loop/round-02/policy/model", None)
    assert "reference" not in job.roles


@pytest.mark.parametrize(
    ("start", "number", "policy", "reference"),
    [
        ("previous", 1, "/model", None),
        ("previous", 3, "/runs/loop/round-02/policy/model", "/model"),
        ("first", 3, "/model", None),
    ],
)
def test_where_ppo_starts_and_what_it_stays_close_to(start, number, policy, reference):
    short = {"name": "short", "kind": "function", "function": "length"}
    ppo = {"steps": 2, "rewards": [short], "sampling": {"max_response_tokens": 5}}
    cfg = loop_config(train={"start": start, "ppo": ppo, "uncertainty_coef": 0.5})
    job = train_job(cfg, paths(number), heldout=True)
    assert isinstance(job, PPOConfig)
    assert job.policy.path == policy
    assert (job.reference and job.reference.path) == reference
    assert [reward.name for reward in job.rewards] == ["reward_model", "short"]
    assert job.model_rewards[0].model.path == f"/runs/loop/round-0{number}/reward-model/model"
    assert job.model_rewards[0].uncertainty_coef == 0.5
    assert (job.data.path, job.data.facts_column) == ("/prompts", "facts")
    assert job.sampling.max_response_tokens == 5


@pytest.mark.parametrize(
    ("keys", "number", "expected"),
    [
        ({}, 1, "/model"),
        ({}, 3, "/model"),
        ({"base": {"path": "/base"}}, 3, "/base"),
        ({"start": "previous"}, 1, "/model"),
        ({"start": "previous", "base": {"path": "/base"}}, 3, "/runs/loop/round-02/reward-model/model"),
        ({"base": {"path": "/base"}, "scorer": {"path": "/scorer"}}, 1, "/base"),
    ],
)
def test_where_the_reward_model_starts(keys, number, expected):
    cfg = loop_config(reward_model={"job": {"epochs": 1}, **keys})
    assert reward_model_job(cfg, paths(number), heldout=False).model.path == expected


def test_preference_training_never_sees_the_facts():
    job = train_job(loop_config(train=PREFERENCE), paths(2), heldout=True)
    assert isinstance(job, PreferenceConfig)
    assert (job.beta, job.model.path) == (0.2, "/runs/loop/round-01/policy/model")
    assert job.reference is not None
    assert job.reference.path == "/model"
    assert job.data.path == "/runs/loop/round-02/preferences"
    assert job.data.facts_column is None
    assert job.eval_data is not None
    assert job.eval_data.path == "/runs/loop/round-02/preferences-heldout"
    assert train_job(loop_config(train=PREFERENCE), paths(1), heldout=False).reference is None


def test_the_reward_model_learns_from_all_preferences():
    cfg = loop_config(reward_model={"base": {"path": "/base"}, "scorer": {"path": "/old"}, "job": {"epochs": 3}})
    job = reward_model_job(cfg, paths(2), heldout=False)
    assert (job.epochs, job.eval_data) == (3, None)
    assert (job.data.path, job.data.facts_column) == ("/runs/loop/round-02/preferences", "facts")
    scorer = reward_model_after(cfg, RUN, 0)
    assert scorer is not None
    assert scorer.path == "/old"
    assert reward_model_after(loop_config(), RUN, 0) is None
    assert policy_after(cfg, RUN, 0).path == "/model"


def test_what_was_cleaned_once_is_not_cleaned_again():
    prompts = {"sources": [{"path": "a"}], "text": {"clean": ["f.py:f"]}, "media_root": "/m", "facts_column": "facts"}
    data = sample_job(loop_config(prompts=prompts), paths(1)).data
    assert (data.sources, data.text.clean, data.media_root, data.facts_column) == ((), (), None, "facts")
