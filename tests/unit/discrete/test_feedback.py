"""Rewards of every decision, votes, and labels that are known: drawn once, by the seed, as often as asked for."""

import numpy as np
import pytest

from mmrlhf_ray.config.discrete_rewards import HumanLossSection, RewardSection
from mmrlhf_ray.discrete.feedback import cloning_data, judged, reward_table, simulated_votes
from tests.unit.discrete_tiny import job, made_up

CASES = made_up(job(), n=3000)
MODEL = {"path": "somewhere"}


def test_labels_alone_are_the_scores():
    np.testing.assert_array_equal(reward_table(CASES, RewardSection(), 0), CASES.scores)


def test_the_mixture_is_a_weighted_sum():
    reward = RewardSection(
        labels=2.0, human={"weight": 0.5}, reward_model={"weight": 3.0, "model": MODEL, "response": "{}"}
    )
    scores = np.random.default_rng(0).normal(size=CASES.scores.shape)
    expected = 2.0 * CASES.scores + 0.5 * (2 * CASES.scores - 1) + 3.0 * scores
    np.testing.assert_allclose(reward_table(CASES, reward, 0, scores), expected, rtol=1e-6)
    for wrong in (None, scores[:, :2]):
        with pytest.raises(ValueError, match=r"model_scores must be of shape \(3000, 3\), got"):
            reward_table(CASES, reward, 0, wrong)


def test_people_are_wrong_as_often_as_asked_and_always_in_the_same_places():
    right = np.where(CASES.scores > 0, 1.0, -1.0)
    np.testing.assert_array_equal(judged(CASES, 0.5, 0.0, 0), right)
    said = judged(CASES, 0.5, 0.2, 7)
    assert set(np.unique(said)) == {-1.0, 1.0}
    wrong = said != right
    assert abs(wrong.mean() - 0.2) < 3 * np.sqrt(0.16 / wrong.size)
    assert abs(wrong[CASES.scores > 0].mean() - 0.2) < 3 * np.sqrt(0.16 / 3000)
    np.testing.assert_array_equal(said, judged(CASES, 0.5, 0.2, 7))
    assert (said != judged(CASES, 0.5, 0.2, 8)).any()


def test_people_judge_fractions_by_the_threshold():
    from dataclasses import replace

    part = replace(CASES.subset([0]), scores=np.array([[0.2, 0.5, 0.8]], np.float32))
    np.testing.assert_array_equal(judged(part, 0.5, 0.0, 0), [[-1, 1, 1]])


def test_votes_have_the_shares_that_were_asked_for():
    voted, vote = simulated_votes(CASES, HumanLossSection(share=0.6, wrong=0.1, shown_right=0.5), 3)
    asked = voted >= 0
    np.testing.assert_array_equal(asked, vote != 0)
    assert abs(asked.mean() - 0.6) < 0.03
    best = CASES.scores[np.arange(3000)[asked], voted[asked]] > 0
    assert abs(best.mean() - (0.5 + 0.5 / 3)) < 0.04
    assert abs(((vote[asked] > 0) != best).mean() - 0.1) < 0.02


def test_all_votes_are_right_where_nobody_is_wrong():
    voted, vote = simulated_votes(CASES, HumanLossSection(), 3)
    np.testing.assert_array_equal(vote, np.where(CASES.scores[np.arange(3000), voted] > 0, 1, -1))


def test_a_share_of_the_labels_is_known_whatever_people_say():
    without = cloning_data(CASES, 0.01, None, 5)
    voted = cloning_data(CASES, 0.01, HumanLossSection(coef=1.0), 5)
    known = without.imitate >= 0
    assert known.sum() == 30
    np.testing.assert_array_equal(without.imitate[known], CASES.labels[known])
    np.testing.assert_array_equal(without.imitate, voted.imitate)
    assert not without.vote.any()
    assert (without.voted == -1).all()
    assert voted.vote.all()
    assert (cloning_data(CASES, 1.0, None, 5).imitate == CASES.labels).all()
