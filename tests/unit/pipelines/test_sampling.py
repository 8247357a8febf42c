"""Which prompts teach something, and which rows stay when scores are missing."""

from dataclasses import replace

import numpy as np
import pytest
import ray

from mmrlhf_ray.config import AlgorithmConfig, PPOConfig, load_config
from mmrlhf_ray.data.batches.collate import TokenRow
from mmrlhf_ray.data.batches.ragged import Ragged
from mmrlhf_ray.errors import RunError
from mmrlhf_ray.pipelines.ppo.experience import Answers
from mmrlhf_ray.pipelines.ppo.state import DriverState
from mmrlhf_ray.pipelines.ppo.step import comparable, drop_rows
from mmrlhf_ray.rollout.batch import Rollouts
from mmrlhf_ray.rollout.groups import informative_rows
from tests.unit.tiny import rollout_table

GROUPS = [0, 0, 1, 1, 2, 2]
PROMPTS = ["a", "a", "b", "b", "a", "a"]
"""The first and the last group are one prompt that was drawn twice."""
ALL = (True,) * 6


def rollouts() -> Rollouts:
    rows = [TokenRow([9], [i], []) for i in range(len(GROUPS))]
    return Rollouts(
        rollout_table(rows, group_id=GROUPS, prompt_id=PROMPTS), ray.ObjectRef.nil(), ray.ObjectRef.nil(), 0.0
    )


def test_groups_whose_responses_score_alike_teach_nothing() -> None:
    scores = (1.0, 1.0, 0.0, 1.0, 0.5, 0.6)
    assert informative_rows(rollouts().table, scores, ALL, 0.0) == [2, 3, 4, 5]
    assert informative_rows(rollouts().table, scores, ALL, 0.2) == [2, 3]
    assert informative_rows(rollouts().table, (1.0,) * 6, ALL, 0.0) == []


def test_a_missing_score_is_not_a_difference() -> None:
    keep = (True, True, True, False, True, True)
    scores = (1.0, 1.0, 0.0, float("nan"), 0.5, 0.6)
    assert informative_rows(rollouts().table, scores, keep, 0.0) == [4, 5]


def test_a_prompt_that_is_drawn_twice_is_two_groups() -> None:
    """Each of its draws alone scores alike; taken for one group they would differ."""
    scores = (1.0, 1.0, 0.5, 0.5, 0.0, 0.0)
    assert informative_rows(rollouts().table, scores, ALL, 0.0) == []
    keep = (True, False, True, True, True, False)
    grouped = AlgorithmConfig(advantage_estimator="rloo", n_samples_per_prompt=2)
    assert comparable(rollouts(), keep, grouped) == [False, False, True, True, False, False]


def test_a_response_that_is_left_alone_has_nobody_to_be_compared_with() -> None:
    keep = (True, False, True, True, True, True)
    grouped = AlgorithmConfig(advantage_estimator="rloo", n_samples_per_prompt=2)
    assert comparable(rollouts(), keep, grouped) == [False, False, True, True, True, True]
    assert comparable(rollouts(), keep, AlgorithmConfig()) == list(keep)


def answers() -> Answers:
    column = Ragged.of_rows([np.array([i], np.float32) for i in range(6)])
    return Answers([float(i) for i in range(6)], ref_logprobs=column, old_logprobs=column, values=None)


def test_dropped_rows_are_gone_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "put", lambda table: ray.ObjectRef.nil())  # no cluster in unit tests
    kept, of = drop_rows(rollouts(), answers(), [True, False, True, True, False, True])
    assert kept.table.column("response_token_ids").to_pylist() == [[0], [2], [3], [5]]
    assert of.scores == [0.0, 2.0, 3.0, 5.0]
    assert [row.tolist() for row in of.old_logprobs] == [[0.0], [2.0], [3.0], [5.0]]
    assert of.values is None


def test_a_step_without_any_score_ends_the_run() -> None:
    with pytest.raises(RunError, match="no score for any of the step's 6 responses"):
        drop_rows(rollouts(), answers(), [False] * 6)


def test_what_the_driver_remembers_survives_a_checkpoint() -> None:
    reward = "{name: f, kind: function, function: exact_match, normalise: true, cost: {bound: 0.5}}"
    cfg = load_config(None, ["name=x", "policy.path=p", "data.path=d", f"rewards=[{reward}]"], PPOConfig)
    state = replace(DriverState.start(cfg), cursor=7)
    assert DriverState.resumed(cfg, state.to_dict(), ()) == state
