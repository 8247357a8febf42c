"""EXPERIENCE against a computation row by row and token by token in plain Python."""

import math
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import ray

from mmrlhf_ray.config import AlgorithmConfig, OverlongConfig
from mmrlhf_ray.data.batches.batching import PassBudget
from mmrlhf_ray.data.batches.collate import TokenRow
from mmrlhf_ray.data.batches.ragged import Ragged
from mmrlhf_ray.pipelines.ppo.experience import (
    Answers,
    Experience,
    make_experience,
    mini_batches,
    shard_by_tokens,
    with_old_logprobs,
)
from mmrlhf_ray.rollout.batch import Rollouts
from mmrlhf_ray.runtime.actors import ActorGroup
from mmrlhf_ray.schema import EXPERIENCE, check
from mmrlhf_ray.workers.roles.learner import Learners
from tests.unit.tiny import rollout_table

LENGTHS = (3, 1, 5, 2)
NOWHERE = ray.ObjectRef.nil()


def numbers(seed: int, scale: float = 1.0) -> Ragged:
    rng = np.random.default_rng(seed)
    return Ragged.of_rows([rng.normal(0.0, scale, n).astype(np.float32) for n in LENGTHS])


def rollouts(**columns: Any) -> Rollouts:
    rows = [TokenRow([9] * (i + 1), list(range(n)), []) for i, n in enumerate(LENGTHS)]
    given: dict[str, Any] = {"rollout_logprobs": [r.tolist() for r in numbers(5)]} | columns
    return Rollouts(rollout_table(rows, **given), NOWHERE, {}, 0.0)


def answers(**changes: Any) -> Answers:
    made: dict[str, Any] = {
        "scores": [1.5, -2.0, 0.25, 4.0],
        "ref_logprobs": numbers(1),
        "old_logprobs": numbers(2),
        "values": numbers(3),
    }
    return Answers(**made | changes)


def make(
    rollouts: Rollouts, answers: Answers, kl_coef: float, algorithm: AlgorithmConfig, **changes: Any
) -> Experience:
    given: dict[str, Any] = {"max_response_tokens": 6, "moments": {}} | changes
    return make_experience(rollouts, answers, kl_coef, algorithm, **given)


def naive(answers: Answers, kl_coef: float, algorithm: AlgorithmConfig) -> dict[str, list[list[float]]]:
    """Rewards, advantages (not whitened) and returns of each row, from the definitions."""
    out: dict[str, list[list[float]]] = {"rewards": [], "advantages": [], "returns": []}
    for score, ref, old, values in zip(
        answers.scores, answers.ref_logprobs, answers.old_logprobs, answers.values, strict=True
    ):
        d = [float(o) - float(r) for o, r in zip(old, ref, strict=True)]
        kl = {
            "k1": d,
            "k2": [x * x / 2 for x in d],
            "k3": [math.exp(-x) - 1 + x for x in d],
        }[algorithm.kl_estimator]
        rewards = [-kl_coef * k for k in kl]
        clip = algorithm.score_clip
        rewards[-1] += score if clip is None else max(-clip, min(clip, score))
        # A_t = Σ_l (γλ)^l δ_{t+l}
        following = [*map(float, values), 0.0]
        deltas = [r + algorithm.gamma * after - v for r, (v, after) in zip(rewards, pairwise(following), strict=True)]
        decay = algorithm.gamma * algorithm.gae_lambda
        advantages = [sum(decay**k * d for k, d in enumerate(deltas[t:])) for t in range(len(deltas))]
        out["rewards"].append(rewards)
        out["advantages"].append(advantages)
        out["returns"].append([a + float(v) for a, v in zip(advantages, values, strict=True)])
    return out


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
@pytest.mark.parametrize("clip", [None, 1.0])
def test_against_the_definitions(estimator: str, clip: float | None) -> None:
    algorithm = AlgorithmConfig.model_validate(
        {"gamma": 0.9, "gae_lambda": 0.8, "kl_estimator": estimator, "score_clip": clip, "whiten": "none"}
    )
    made = make(rollouts(), answers(), 0.3, algorithm)
    table = check(made.table, EXPERIENCE, "test")
    for name, want in naive(answers(), 0.3, algorithm).items():
        got = table.column(name).to_pylist()
        assert [len(row) for row in got] == list(LENGTHS)
        for got_row, want_row in zip(got, want, strict=True):
            assert got_row == pytest.approx(want_row, abs=1e-5)
    for name in ("ref_logprobs", "old_logprobs", "values"):
        assert table.column(name).to_pylist() == [row.tolist() for row in getattr(answers(), name)]
    want_scores = [1.5, -2.0, 0.25, 4.0] if clip is None else [1.0, -1.0, 0.25, 1.0]
    assert table.column("score").to_pylist() == want_scores
    assert made.metrics["score"] == pytest.approx((1.5 - 2.0 + 0.25 + 4.0) / 4), "reported before clipping"


def test_whitening_is_over_all_tokens_of_the_step() -> None:
    plain = naive(answers(), 0.3, AlgorithmConfig())["advantages"]
    flat = np.concatenate([np.array(row) for row in plain])
    got = make(rollouts(), answers(), 0.3, AlgorithmConfig()).table.column("advantages").to_pylist()
    assert np.concatenate(got) == pytest.approx((flat - flat.mean()) / flat.std(), abs=1e-4)


def test_the_same_policy_and_reference_leave_the_score_at_the_last_token() -> None:
    made = make(rollouts(), answers(ref_logprobs=numbers(2)), 10.0, AlgorithmConfig())
    assert made.metrics["kl"] == 0.0
    assert made.response_kl.tolist() == [0.0] * 4
    scores = answers().scores
    assert made.table.column("rewards").to_pylist() == [
        [0.0] * (n - 1) + [score] for n, score in zip(LENGTHS, scores, strict=True)
    ]
    assert made.metrics["reward"] == pytest.approx(made.metrics["score"])


def test_kl_is_summed_over_a_response() -> None:
    made = make(rollouts(), answers(), 0.3, AlgorithmConfig(kl_estimator="k3"))
    want = [float((o - r).sum()) for o, r in zip(answers().old_logprobs, answers().ref_logprobs, strict=True)]
    assert made.response_kl.tolist() == pytest.approx(want, abs=1e-5)
    assert made.metrics["kl"] == pytest.approx(np.mean(want), abs=1e-5)


def test_the_rest_of_what_is_reported() -> None:
    sampled = [row.tolist() for row in numbers(2)]
    sampled[2][4] += 0.25
    made = make(
        rollouts(rollout_logprobs=sampled, finish_reason=["stop", "length", "stop", "length"]),
        answers(),
        0.3,
        AlgorithmConfig(),
    ).metrics
    tokens = sum(LENGTHS)
    assert made["mismatch_max"] == pytest.approx(0.25, abs=1e-6)
    assert made["mismatch_mean"] == pytest.approx(0.25 / tokens, abs=1e-6)
    assert made["unfinished"] == 0.5
    assert made["response_tokens"] == tokens / 4
    assert made["entropy"] == pytest.approx(-numbers(2).values.mean(), abs=1e-6)
    assert made["score_std"] == pytest.approx(np.std([1.5, -2.0, 0.25, 4.0]))


@pytest.mark.parametrize("name", ["ref_logprobs", "old_logprobs", "values"])
def test_an_answer_of_another_length_is_named(name: str) -> None:
    wrong = list(numbers(4))
    wrong[2] = wrong[2][:-1]
    with pytest.raises(ValueError, match=f"{name}: row 2 has 4 numbers for 5 response tokens"):
        make(rollouts(), answers(**{name: Ragged.of_rows(wrong)}), 0.1, AlgorithmConfig())


def test_a_missing_answer_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"scores|shorter|longer"):
        make(rollouts(), answers(scores=[1.5, -2.0, 0.25]), 0.1, AlgorithmConfig())
    with pytest.raises(ValueError, match=r"values|shorter|longer"):
        make(rollouts(), answers(values=numbers(3).take([0, 1, 2])), 0.1, AlgorithmConfig())


def test_a_response_without_tokens_has_no_place_for_its_score() -> None:
    table = rollout_table([TokenRow([9], [], []), TokenRow([9], [1], [])])
    column = Ragged.of_rows([np.empty(0, np.float32), np.zeros(1, np.float32)])
    made = Answers([0.0, 0.0], column, column, column)
    with pytest.raises(ValueError, match=r"at least one response token in every row; rows \[0\]"):
        make(Rollouts(table, NOWHERE, {}, 0.0), made, 0.1, AlgorithmConfig())


@pytest.mark.parametrize(("rows", "count", "epochs"), [(12, 3, 1), (12, 1, 3), (10, 3, 2), (2, 3, 2)])
def test_mini_batches_are_every_row_once_an_epoch(rows: int, count: int, epochs: int) -> None:
    steps = mini_batches(range(rows), count, epochs, np.random.default_rng(0))
    per_epoch = min(count, rows)
    assert len(steps) == epochs * per_epoch
    for epoch in range(epochs):
        of_epoch = steps[epoch * per_epoch : (epoch + 1) * per_epoch]
        assert Counter(row for step in of_epoch for row in step) == Counter(range(rows))
        assert max(map(len, of_epoch)) - min(map(len, of_epoch)) <= 1


def test_a_group_is_in_one_optimizer_step_of_an_epoch() -> None:
    groups = [7, 7, 7, 2, 2, 9, 9, 9, 4, 4, 4]  # two lost a response
    steps = mini_batches(groups, 2, 3, np.random.default_rng(0))
    assert [len({groups[row] for row in step}) for step in steps] == [2] * 6
    for first, second in zip(steps[::2], steps[1::2], strict=True):
        assert sorted(first + second) == list(range(11))
        assert not {groups[row] for row in first} & {groups[row] for row in second}
    assert len(mini_batches(groups, 5, 1, np.random.default_rng(0))) == 4


def test_epochs_are_shuffled_anew_and_by_the_seed() -> None:
    first, second = mini_batches(range(20), 1, 2, np.random.default_rng(0))
    assert first != second
    assert [first, second] == mini_batches(range(20), 1, 2, np.random.default_rng(0))
    assert [first, second] != mini_batches(range(20), 1, 2, np.random.default_rng(1))


def test_steps_are_divided_among_ranks_with_their_token_counts() -> None:
    group = Learners(ActorGroup(("policy-0", "policy-1"), (None, None)), PassBudget(100), 1.0)
    masks = [[True] * n for n in LENGTHS]
    masks[2][0] = False
    sampled = rollouts(response_mask=masks)
    experience = make(sampled, answers(), 0.1, AlgorithmConfig()).table
    plan = shard_by_tokens(experience, sampled, group, [[0, 2], [3, 1]], "token_mean", 6)
    assert plan.denominators == [3 + 4, 2 + 1], "tokens that are trained on"
    assert len(plan.shards) == 2
    for number, step in enumerate(([0, 2], [3, 1])):
        done = [s.rows[row] for s in plan.shards for m in s.steps[number] for row in m.rows]
        assert sorted(done) == sorted(step)
    assert 0.0 <= plan.padding_share <= 0.05


def test_lengths_count_prompt_and_response() -> None:
    assert rollouts().lengths == [i + 1 + n for i, n in enumerate(LENGTHS)]
    assert rollouts(modality=["text", "image", "image+audio", "video"]).kinds == [
        frozenset(),
        {"image"},
        {"image", "audio"},
        {"video"},
    ]


GROUPED = [0, 0, 1, 1]


def grouped(**changes: Any) -> Rollouts:
    """One prompt that was drawn twice: two groups, although all rows have its id."""
    return rollouts(group_id=GROUPED, prompt_id=["a"] * 4, **changes)


@pytest.mark.parametrize(
    ("estimator", "want"),
    [
        # Group means −0.25 and 2.125; leave-one-out leaves twice the distance from the mean in groups of two.
        ("dr_grpo", [1.75, -1.75, -1.875, 1.875]),
        ("rloo", [3.5, -3.5, -3.75, 3.75]),
        ("grpo", [1 / math.sqrt(2), -1 / math.sqrt(2), -1 / math.sqrt(2), 1 / math.sqrt(2)]),
    ],
)
def test_without_a_critic_a_response_is_compared_with_its_group(estimator: str, want: list[float]) -> None:
    algorithm = AlgorithmConfig.model_validate({"advantage_estimator": estimator, "n_samples_per_prompt": 2})
    table = make(grouped(), answers(values=None), 0.0, algorithm).table
    got = table.column("advantages").to_pylist()
    for row, value, length in zip(got, want, LENGTHS, strict=True):
        assert row == pytest.approx([value] * length, abs=1e-4)
    assert table.column("values").to_pylist() == [[0.0] * n for n in LENGTHS]


def test_kl_in_the_loss_leaves_the_rewards_alone() -> None:
    made = make(rollouts(), answers(), 0.3, AlgorithmConfig(kl_in="loss", kl_estimator="k3"))
    assert made.metrics["reward"] == pytest.approx(made.metrics["score"])
    assert made.metrics["kl"] != 0.0


@pytest.mark.parametrize("estimator", ["gae", "reinforce", "grpo"])
def test_old_logprobs_may_come_with_the_update(estimator: str) -> None:
    own: dict[str, Any] = {"n_samples_per_prompt": 2, "kl_in": "loss", "kl_estimator": "k3"}
    algorithm = AlgorithmConfig.model_validate({"advantage_estimator": estimator} | own)
    values = {} if algorithm.has_critic else {"values": None}
    want = make(grouped(), answers(**values), 0.3, algorithm)
    first = make(grouped(), answers(old_logprobs=None, **values), 0.3, algorithm)
    assert all(math.isnan(x) for row in first.table.column("old_logprobs").to_pylist() for x in row)
    assert not {"kl", "entropy", "mismatch_max"} & first.metrics.keys(), "nothing is reported that is not known"
    assert np.isnan(first.response_kl).all()
    got = with_old_logprobs(first, numbers(2), algorithm)
    assert got.table.equals(want.table)
    assert got.metrics == want.metrics
    assert got.response_kl.tolist() == want.response_kl.tolist()


def test_a_kl_in_the_reward_cannot_wait_for_the_update() -> None:
    with pytest.raises(ValueError, match="the KL in the reward needs them before the update"):
        make(rollouts(), answers(old_logprobs=None), 0.3, AlgorithmConfig())


def test_the_samplers_own_logprobs_say_nothing_of_a_mismatch() -> None:
    sampled = numbers(5)
    made = make(rollouts(), answers(old_logprobs=sampled, sampler_serves=True), 0.3, AlgorithmConfig())
    assert not {name for name in made.metrics if name.startswith(("mismatch", "corrected"))}
    want = [float((o - r).sum()) for o, r in zip(sampled, answers().ref_logprobs, strict=True)]
    assert made.response_kl.tolist() == pytest.approx(want, abs=1e-5)


def test_without_a_reference_nothing_is_made_up_of_one() -> None:
    with_one, without = (make(rollouts(), a, 0.0, AlgorithmConfig()) for a in (answers(), answers(ref_logprobs=None)))
    assert all(math.isnan(x) for row in without.table.column("ref_logprobs").to_pylist() for x in row)
    assert np.isnan(without.response_kl).all()
    assert without.metrics == {name: value for name, value in with_one.metrics.items() if name != "kl"}
    left = ["ref_logprobs"]
    assert without.table.drop_columns(left).equals(with_one.table.drop_columns(left)), "nothing else hangs on it"


def test_later_old_logprobs_make_no_kl_without_a_reference() -> None:
    algorithm = AlgorithmConfig(kl_coef=0.0)
    first = make(rollouts(), answers(old_logprobs=None, ref_logprobs=None), 0.0, algorithm)
    found = with_old_logprobs(first, numbers(2), algorithm)
    assert "entropy" in found.metrics
    assert "kl" not in found.metrics


def test_a_kl_without_a_reference_is_refused() -> None:
    with pytest.raises(ValueError, match="ref_logprobs: kl_coef=0.3 needs them, got None"):
        make(rollouts(), answers(ref_logprobs=None), 0.3, AlgorithmConfig(kl_in="loss", kl_estimator="k3"))


def test_distillation_is_the_reverse_kl_of_each_token() -> None:
    algorithm = AlgorithmConfig(advantage_estimator="reinforce", gamma=0.0)
    made = make(rollouts(), answers(scores=[0.0] * 4, values=None), 1.0, algorithm)
    want = [(r - o).tolist() for r, o in zip(answers().ref_logprobs, answers().old_logprobs, strict=True)]
    for got_row, want_row in zip(made.table.column("advantages").to_pylist(), want, strict=True):
        assert got_row == pytest.approx(want_row, abs=1e-5)


def test_long_responses_lose_score_before_the_limit() -> None:
    algorithm = AlgorithmConfig(overlong=OverlongConfig(buffer_tokens=2, penalty=1.0))
    made = make(rollouts(), answers(), 0.0, algorithm, max_response_tokens=6)
    # Only the row of five tokens is within two tokens of six.
    assert made.table.column("score").to_pylist() == pytest.approx([1.5, -2.0, 0.25 - 0.5, 4.0])
    assert made.metrics["score"] == pytest.approx((1.5 - 2.0 + 0.25 + 4.0) / 4)


def test_scores_are_normalised_by_task_over_steps() -> None:
    algorithm = AlgorithmConfig(score_normalisation="task")
    tasks = {"task": ["x", "x", "y", "y"]}
    first = make(rollouts(**tasks), answers(), 0.0, algorithm)
    half = 1 / math.sqrt(2)
    assert first.table.column("score").to_pylist() == pytest.approx([half, -half, -half, half], abs=1e-5)
    second = make(rollouts(**tasks), answers(scores=[1.5, 1.5, 4.0, 4.0]), 0.0, algorithm, moments=first.moments)
    of_x = np.array([1.5, -2.0, 1.5, 1.5])
    want = (1.5 - of_x.mean()) / of_x.std(ddof=1)
    assert second.table.column("score").to_pylist()[:2] == pytest.approx([want, want], abs=1e-5)
    assert second.moments["x"].count == 4
    assert second.moments["y"].count == 4


@pytest.mark.parametrize(
    ("aggregation", "want"),
    [("token_mean", [8.0, 3.0]), ("sequence_mean", [2.0, 2.0]), ("constant_length", [12.0, 12.0])],
)
def test_denominators_are_those_of_the_aggregation(aggregation: str, want: list[float]) -> None:
    group = Learners(ActorGroup(("policy-0",), (None,)), PassBudget(100), 1.0)
    experience = make(rollouts(), answers(), 0.1, AlgorithmConfig()).table
    assert shard_by_tokens(experience, rollouts(), group, [[0, 2], [3, 1]], aggregation, 6).denominators == want


def test_turns_have_their_own_rewards_and_observations_none() -> None:
    row = TokenRow([9], list(range(6)), [])
    segments = [
        {"kind": kind, "start": start, "end": end, "shows": [], "reward": reward, "problem": ""}
        for kind, start, end, reward in (
            ("response", 0, 2, 1.0),
            ("observation", 2, 4, math.nan),
            ("response", 4, 6, 0.5),
        )
    ]
    mask = [True, True, False, False, True, True]
    table = rollout_table([row], response_mask=[mask], segments=[segments])
    none = Ragged.of_rows([np.zeros(6, np.float32)])
    given = Answers([1.5], none, none, none)
    algorithm = AlgorithmConfig(gamma=1.0, gae_lambda=1.0, whiten="none")
    episodes = Rollouts(table, NOWHERE, {}, 0.0)
    made = make(episodes, replace(given, turns=((1.0, 0.5),)), 0.0, algorithm).table
    assert made.column("rewards").to_pylist() == [[0.0, 1.0, 0.0, 0.0, 0.0, 0.5]]
    assert made.column("advantages").to_pylist() == [[1.5, 1.5, 0.0, 0.0, 0.5, 0.5]]
    at_the_end = make(episodes, given, 0.0, algorithm).table
    assert at_the_end.column("rewards").to_pylist() == [[0.0, 0.0, 0.0, 0.0, 0.0, 1.5]]
    with pytest.raises(ValueError, match="row 0 has 3 rewards for 2 turns"):
        make(episodes, replace(given, turns=((1.0, 0.5, 0.0),)), 0.0, algorithm)


def test_responses_are_compared_as_a_whole_and_turns_add_what_follows_them() -> None:
    segments = [
        {"kind": kind, "start": start, "end": end, "shows": [], "reward": math.nan, "problem": ""}
        for kind, start, end in (("response", 0, 2), ("observation", 2, 3), ("response", 3, 4))
    ]
    rows = [TokenRow([9], list(range(4)), []), TokenRow([9], [1, 2], [])]
    mask = [[True, True, False, True], [True, True]]
    table = rollout_table(rows, response_mask=mask, segments=[segments, []], group_id=[5, 5], prompt_id=["a", "a"])
    none = Ragged.of_rows([np.zeros(4, np.float32), np.zeros(2, np.float32)])
    of_turns = ((0.5, -2.0), (0.75,))
    given = Answers([1.0 - 1.5, 3.0 + 0.75], none, none, None, turns=of_turns)
    algorithm = AlgorithmConfig(advantage_estimator="dr_grpo", n_samples_per_prompt=2, kl_coef=0.0)
    made = make(Rollouts(table, NOWHERE, {}, 0.0), given, 0.0, algorithm)
    assert made.table.column("rewards").to_pylist() == [[0.0, 0.5, 0.0, 1.0 - 2.0], [0.0, 3.0 + 0.75]]
    lead = 1.0  # (3 - 1) / 2: what is left of the scores without the turns
    first, second = [-lead - 1.5] * 2, [-lead - 2.0]
    assert made.table.column("advantages").to_pylist() == [[*first, 0.0, *second], [lead + 0.75] * 2]
    assert made.metrics["reward"] == (-0.5 + 3.75) / 2
