"""Which groups teach something, and which rows stay when scores are missing."""

from dataclasses import replace

import numpy as np
import pytest
import ray

from mmrlhf_ray.config import AlgorithmConfig, PPOConfig, load_config
from mmrlhf_ray.data.batches.collate import TokenRow
from mmrlhf_ray.data.batches.ragged import Ragged
from mmrlhf_ray.errors import RunError
from mmrlhf_ray.pipelines.ppo.experience import Answers
from mmrlhf_ray.pipelines.ppo.judged import Group, Judged, batch_of
from mmrlhf_ray.pipelines.ppo.state import DriverState
from mmrlhf_ray.pipelines.ppo.step import comparable, drop_rows
from mmrlhf_ray.rewards.scores import ComponentScores
from mmrlhf_ray.rollout.batch import Rollouts
from mmrlhf_ray.rollout.buffer import Leave
from mmrlhf_ray.rollout.groups import group_rows, why_left_out
from mmrlhf_ray.rollout.ledger import Consumed
from tests.unit.tiny import rollout_table

GROUPS = [0, 0, 1, 1, 2, 2]
PROMPTS = ["a", "a", "b", "b", "a", "a"]
"""The first and the last group are one prompt that was drawn twice."""


@pytest.fixture
def no_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """No cluster in unit tests."""
    monkeypatch.setattr(ray, "put", lambda table: ray.ObjectRef.nil())


def rollouts(groups: list[int] = GROUPS) -> Rollouts:
    rows = [TokenRow([9], [i], []) for i in range(len(groups))]
    table = rollout_table(rows, group_id=groups, prompt_id=PROMPTS[: len(groups)])
    return Rollouts(table, ray.ObjectRef.nil(), {}, 0.0)


def test_a_prompt_that_is_drawn_twice_is_two_groups() -> None:
    assert group_rows(rollouts().table) == {0: range(2), 1: range(2, 4), 2: range(4, 6)}
    assert group_rows(rollouts([7, 7, 7, 3]).table) == {7: range(3), 3: range(3, 4)}
    grouped = AlgorithmConfig(advantage_estimator="rloo", n_samples_per_prompt=2)
    keep = (True, False, True, True, True, False)
    assert comparable(rollouts(), keep, grouped) == [False, False, True, True, False, False]


@pytest.mark.parametrize(
    ("scores", "min_spread", "why"),
    [
        ([1.0, 1.0], 0.0, Leave.FILTERED),
        ([0.5, 0.6], 0.0, None),
        ([0.5, 0.7], 0.2, Leave.FILTERED),
        ([0.0, 1.0, 0.5], 0.2, None),
        ([1.0, 1.0], None, None),
        ([1.0], None, Leave.MISSING_SCORE),
        ([], None, Leave.MISSING_SCORE),
    ],
)
def test_a_group_is_left_out_for_a_reason(scores: list[float], min_spread: float | None, why: Leave | None) -> None:
    assert why_left_out(scores, compared=True, min_spread=min_spread) is why


def test_a_response_needs_no_company_where_none_are_compared() -> None:
    assert why_left_out([1.0], compared=False, min_spread=None) is None
    assert why_left_out([], compared=False, min_spread=None) is Leave.MISSING_SCORE


def test_a_response_that_is_left_alone_has_nobody_to_be_compared_with() -> None:
    keep = (True, False, True, True, True, True)
    grouped = AlgorithmConfig(advantage_estimator="rloo", n_samples_per_prompt=2)
    assert comparable(rollouts(), keep, grouped) == [False, False, True, True, True, True]
    assert comparable(rollouts(), keep, AlgorithmConfig()) == list(keep)


def judged(groups: list[int], scores: list[float]) -> Judged:
    column = Ragged.of_rows([np.array([score], np.float32) for score in scores])
    return Judged(rollouts(groups), {"r": ComponentScores.of(scores)}, {"ref_logprobs": column}, {"score": 1.0})


@pytest.mark.usefixtures("no_store")
def test_a_batch_is_made_of_groups_of_different_judgements() -> None:
    first, second = judged([0, 0, 2, 2], [0.0, 1.0, 2.0, 3.0]), judged([1, 1], [4.0, 5.0])
    made = batch_of([Group(first, range(2)), Group(second, range(2)), Group(first, range(2, 4))])
    assert made.rollouts.table.column("group_id").to_pylist() == [0, 0, 1, 1, 2, 2]
    assert made.scores["r"].values == (0.0, 1.0, 4.0, 5.0, 2.0, 3.0)
    assert [row.tolist() for row in made.tokens["ref_logprobs"]] == [[0.0], [1.0], [4.0], [5.0], [2.0], [3.0]]
    assert made.seconds == {"score": 2.0}
    part = batch_of([Group(first, range(2, 4))])
    assert part.scores["r"].values == (2.0, 3.0)
    whole = batch_of([Group(first, range(2)), Group(first, range(2, 4))])
    assert whole is first, "nothing is copied where all is in order"


def answers() -> Answers:
    column = Ragged.of_rows([np.array([i], np.float32) for i in range(6)])
    return Answers([float(i) for i in range(6)], ref_logprobs=column, old_logprobs=column, values=None)


@pytest.mark.usefixtures("no_store")
def test_dropped_rows_are_gone_everywhere() -> None:
    kept, of = drop_rows(rollouts(), answers(), [True, False, True, True, False, True])
    assert kept.table.column("response_token_ids").to_pylist() == [[0], [2], [3], [5]]
    assert of.scores == [0.0, 2.0, 3.0, 5.0]
    assert [row.tolist() for row in of.old_logprobs] == [[0.0], [2.0], [3.0], [5.0]]
    assert of.values is None


@pytest.mark.usefixtures("no_store")
def test_rows_are_dropped_where_no_reference_was_asked() -> None:
    _, of = drop_rows(rollouts(), replace(answers(), ref_logprobs=None), [True] * 5 + [False])
    assert of.ref_logprobs is None
    assert of.scores == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_a_step_without_any_score_ends_the_run() -> None:
    with pytest.raises(RunError, match="no score for any of the step's 6 responses"):
        drop_rows(rollouts(), answers(), [False] * 6)


def test_what_the_driver_remembers_survives_a_checkpoint() -> None:
    reward = "{name: f, kind: function, function: exact_match, normalise: true, cost: {bound: 0.5}}"
    cfg = load_config(None, ["name=x", "policy.path=p", "data.path=d", f"rewards=[{reward}]"], PPOConfig)
    state = replace(DriverState.start(cfg), consumed=Consumed(9, (7, 2)))
    assert DriverState.resumed(cfg, state.to_dict(), ()) == state
