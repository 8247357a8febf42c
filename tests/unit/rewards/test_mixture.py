"""Mixtures: weights, routing, normalisation, costs, and what a missing number means."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError

from mmrlhf_ray.algorithms.lagrange import lagrangian_score
from mmrlhf_ray.config import CostConfig, FluencyReward, FunctionReward, JudgeReward, ModelConfig, ModelReward
from mmrlhf_ray.errors import RunError
from mmrlhf_ray.rewards.batch import Rows
from mmrlhf_ray.rewards.mixture import MixtureState, mix, routed
from mmrlhf_ray.rewards.scores import ComponentScores

NONE = (None, None, None, None)
ROWS = Rows(("s0", "s1", "s2", "s3"), ("sums", "sums", "names", "names"), ("text", "image", "text", "audio"))


def own(name, **keys):
    return FunctionReward(kind="function", name=name, function=f"/{name}.py:f", **keys)


def given(*values, problems=None):
    return ComponentScores(tuple(values), problems or (None,) * len(values))


def mixed(rewards, answers, state=None, rows=ROWS):
    return mix(rewards, answers, rows, state or MixtureState.start(rewards))


def test_each_component_in_units_of_its_group():
    rows = replace(ROWS, groups=(7, 7, 9, 9))
    rewards = [own("a", normalise="group"), own("b", normalise="group", weight=2.0)]
    got = mixed(rewards, {"a": given(1, 3, 5, 5), "b": given(200, 100, 0, 50)}, rows=rows)
    half = 2**-0.5  # (3 - 1) / 2 over the unbiased deviation of two numbers
    assert got.scores == pytest.approx((-half + 2 * half, half - 2 * half, -2 * half, 2 * half), abs=1e-5)
    assert got.metrics["reward_b"] == 87.5
    assert got.state.moments == {}


def test_weighted_sum():
    got = mixed([own("a", weight=2.0), own("b", weight=-0.5)], {"a": given(1, 2, 3, 4), "b": given(4, 0, 2, 1)})
    assert got.scores == (0.0, 4.0, 5.0, 7.5)
    assert got.keep == (True,) * 4
    assert got.metrics == {"reward_a": 2.5, "missing_a": 0.0, "reward_b": 1.75, "missing_b": 0.0}
    assert got.warnings == ()


def test_one_model_reward_passes_unchanged():
    model = ModelReward(kind="model", name="model", model=ModelConfig(path="m"))
    values = np.random.default_rng(0).normal(size=4).astype(np.float32)
    answers = {"model": ComponentScores.of(values)}
    assert mixed([model], answers).scores == tuple(map(float, values))
    other = FluencyReward(kind="fluency", name="fluency", weight=0.0)
    answers |= {"fluency": given(-1.5, -2.5, -3.5, -4.5)}
    assert mixed([model, other], answers).scores == tuple(map(float, values))


def test_rows_go_to_their_components_only():
    rewards = [own("sums", tasks=["sums"]), own("heard", modalities=["audio", "image"]), own("all", weight=10.0)]
    assert [routed(r, ROWS) for r in rewards] == [[0, 1], [1, 3], [0, 1, 2, 3]]
    # What a component says of rows that are not its own does not count, not even a problem.
    sums = given(1, 2, None, 4, problems=(None, None, "lost", None))
    got = mixed(rewards, {"sums": sums, "heard": given(5, 6, 7, 8), "all": given(0, 0, 0, 1)})
    assert got.scores == (1.0, 8.0, 0.0, 18.0)
    assert (got.metrics["reward_sums"], got.metrics["reward_heard"]) == (1.5, 7.0)


def test_not_applicable_adds_nothing():
    got = mixed([own("a"), own("b")], {"a": given(1, None, 3, None), "b": given(1, 1, 1, 1)})
    assert got.scores == (2.0, 1.0, 4.0, 1.0)
    assert got.metrics["reward_a"] == 2.0
    assert got.metrics["missing_a"] == 0.0
    assert got.warnings == ()


def test_missing_ends_the_run_and_names_component_rows_and_reason():
    a = given(1, None, None, 4, problems=(None, "hung", "raised", None))
    with pytest.raises(RunError) as error:
        mixed([own("a"), own("b", on_missing="drop")], {"a": a, "b": given(*NONE, problems=("away",) * 4)})
    text = str(error.value)
    assert "reward 'a' (/a.py:f): no number for 1 of 4 responses (s1): hung; fix it, or set on_missing" in text
    assert "no number for 1 of 4 responses (s2): raised;" in text
    assert "'b'" not in text  # its rows would only have been dropped


def test_missing_is_dropped_or_counted_as_zero():
    a = given(1, None, 3, None, problems=(None, "hung", None, "hung"))
    rest = {"b": given(10, 10, 10, 10)}
    dropped = mixed([own("a", on_missing="drop"), own("b")], {"a": a} | rest)
    assert dropped.keep == (True, False, True, False)
    assert dropped.scores[0::2] == (11.0, 13.0)
    assert math.isnan(dropped.scores[1])
    assert dropped.warnings == (
        "reward 'a' (/a.py:f): no number for 2 of 4 responses (s1, s3): hung; left out of training",
    )
    zero = mixed([own("a", on_missing="zero"), own("b")], {"a": a} | rest)
    assert zero.scores == (11.0, 10.0, 13.0, 10.0)
    assert zero.keep == (True,) * 4
    assert zero.warnings == ("reward 'a' (/a.py:f): no number for 2 of 4 responses (s1, s3): hung; counted as 0",)
    assert zero.metrics["missing_a"] == 0.5
    assert zero.metrics["reward_a"] == 2.0  # of the numbers that are there


def test_dropped_wins_over_zero():
    lost = given(1, None, 3, 4, problems=(None, "x", None, None))
    for names in (("a", "b"), ("b", "a")):
        policies = {"a": "zero", "b": "drop"}
        rewards = [own(n, on_missing=policies[n]) for n in names]
        assert mixed(rewards, {"a": lost, "b": lost}).keep == (True, False, True, True)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_number_that_is_none_is_missing(value):
    with pytest.raises(RunError, match=f"'a'.*s2.*gave {value}"):
        mixed([own("a")], {"a": given(1, 2, value, 4)})


def test_rows_that_nobody_scored():
    rewards = [own("a", on_missing="zero"), own("b", on_missing="drop", tasks=["sums"])]
    got = mixed(rewards, {"a": given(1, None, 3, None), "b": given(1, None, None, None)})
    assert got.keep == (True, False, True, True)  # s1 is for both: drop is stricter; s3 for `a` alone
    assert got.scores[3] == 0.0
    assert any("(s1)" in w and "'a'" in w and "'b'" in w and "left out of training" in w for w in got.warnings)
    assert any("(s3)" in w and "'b'" not in w and "counted as 0" in w for w in got.warnings)
    with pytest.raises(RunError, match=r"\(s1\).*'a' \(/a.py:f\) returned None"):
        mixed([own("a")], {"a": given(1, None, 3, 4)})
    with pytest.raises(RunError, match=r"\(s2, s3\): none is for their tasks and modalities"):
        mixed([own("a", tasks=["sums"], on_missing="zero")], {"a": given(1, 2, None, None)})


def test_a_row_counted_as_zero_is_scored():
    rewards = [own("a", on_missing="zero"), own("b")]
    answers = {"a": given(None, 1, 1, 1, problems=("lost", None, None, None)), "b": given(None, 1, 1, 1)}
    assert mixed(rewards, answers).scores == (0.0, 2.0, 2.0, 2.0)


def test_none_for_everything_is_said():
    got = mixed([own("a"), own("b")], {"a": given(*NONE), "b": given(1, 2, 3, 4)})
    assert got.scores == (1.0, 2.0, 3.0, 4.0)
    (warning,) = got.warnings
    assert "reward 'a' (/a.py:f)" in warning
    assert "s0, s1, s2, s3" in warning
    assert "None for every row" in warning
    assert math.isnan(got.metrics["reward_a"])
    with pytest.raises(RunError, match="(s0, s1, s2, s3).*a.py:f"):
        mixed([own("a")], {"a": given(*NONE)})


def test_long_lists_are_shortened():
    count = 50
    rows = Rows(tuple(f"s{i}" for i in range(count)), ("t",) * count, ("text",) * count)
    lost = ComponentScores((None,) * count, tuple(f"raised {i}" for i in range(count)))
    with pytest.raises(RunError) as error:
        mixed([own("a")], {"a": lost}, rows=rows)
    lines = str(error.value).splitlines()
    assert len(lines) == 6  # a headline, four reasons, the rest
    assert "46 of 50 responses (s4, s5, s6, s7, s8, … and 41 more): various other reasons" in lines[-1]


def test_normalisation_runs_over_steps():
    rewards = [own("a", normalise=True, weight=2.0)]
    first = mixed(rewards, {"a": given(1, 2, 3, 4)})
    wanted = (np.arange(1, 5) - 2.5) / np.std([1, 2, 3, 4], ddof=1)
    np.testing.assert_allclose(first.scores, 2 * wanted)
    second = mixed(rewards, {"a": given(5, 6, 7, 8)}, first.state)
    seen = np.arange(1, 9)
    np.testing.assert_allclose(second.scores, 2 * (seen[4:] - seen.mean()) / seen.std(ddof=1))
    assert second.state.moments["a"].count == 8
    assert first.state.moments["a"].count == 4  # states are not changed
    assert second.metrics["reward_a"] == 6.5  # as it came


def test_units_do_not_matter_once_normalised():
    rewards = [own("a", normalise=True)]
    values = [0.5, -1.0, 2.0, 7.0]
    plain = mixed(rewards, {"a": given(*values)})
    scaled = mixed(rewards, {"a": given(*(100 * v + 3 for v in values))})
    np.testing.assert_allclose(plain.scores, scaled.scores)


def cost(name, multiplier, bound=0.0, **keys):
    return own(name, cost=CostConfig(bound=bound, initial_multiplier=multiplier, multiplier_lr=0.1), **keys)


def test_one_cost_is_the_lagrangian_score():
    rewards = [own("a"), cost("harm", 0.5, bound=0.2)]
    got = mixed(rewards, {"a": given(1, 2, 3, 4), "harm": given(0, 1, 0, 1)})
    assert got.scores == tuple(lagrangian_score(float(r), float(c), 0.5) for r, c in [(1, 0), (2, 1), (3, 0), (4, 1)])
    assert got.metrics["cost_harm"] == 0.5
    assert "reward_harm" not in got.metrics
    assert got.metrics["lagrange_harm"] == 0.5  # the one that was used
    assert got.state.multipliers["harm"].value == pytest.approx(0.5 + 0.1 * (0.5 - 0.2))


def test_several_costs():
    rewards = [own("a"), cost("harm", 0.5), cost("waste", 1.5, tasks=["sums"])]
    got = mixed(rewards, {"a": given(4, 4, 4, 4), "harm": given(1, 0, 1, 0), "waste": given(2, 0, None, None)})
    np.testing.assert_allclose(got.scores, [(4 - 0.5 - 3) / 3, 4 / 3, (4 - 0.5) / 3, 4 / 3])


def test_multipliers_move_with_the_raw_cost_and_rest_without_one():
    rewards = [own("a"), cost("harm", 1.0, bound=0.5, normalise=True, on_missing="zero")]
    state = mixed(rewards, {"a": given(1, 1, 1, 1), "harm": given(8, 10, 12, 14)}).state
    assert state.multipliers["harm"].value == pytest.approx(1.0 + 0.1 * (11 - 0.5))
    lost = given(*NONE, problems=("lost",) * 4)
    after = mixed(rewards, {"a": given(1, 1, 1, 1), "harm": lost}, state)
    assert after.state == state
    np.testing.assert_allclose(after.scores, 1 / (1 + state.multipliers["harm"].value))


def test_a_cost_is_brought_under_its_bound():
    """A policy that answers to the sign of what it gains from costing: the cost settles at the bound."""
    rewards = [own("a"), cost("harm", 0.0, bound=0.3)]
    state, share, costs = MixtureState.start(rewards), 1.0, []
    rows = Rows(tuple(map(str, range(100))), ("t",) * 100, ("text",) * 100)
    for _ in range(600):
        harmful = [float(i < round(100 * share)) for i in range(100)]
        got = mix(rewards, {"a": given(*harmful), "harm": given(*harmful)}, rows, state)
        gain = got.scores[0] if harmful[0] else (1 - state.multipliers["harm"].value)
        share = min(max(share + 0.02 * gain, 0.01), 1.0)
        state = got.state
        costs.append(sum(harmful) / 100)
    assert costs[0] == 1.0
    assert np.mean(costs[-200:]) == pytest.approx(0.3, abs=0.05)


def test_state_survives_a_checkpoint():
    rewards = [own("a", normalise=True), cost("harm", 0.5)]
    answers = {"a": given(0.1, 0.2, 0.4, 0.8), "harm": given(1, 0, 0, 0)}
    state = mixed(rewards, answers).state
    again = MixtureState.from_dict(json.loads(json.dumps(state.to_dict())))
    assert again == state
    assert mixed(rewards, answers, again) == mixed(rewards, answers, state)


def test_a_state_of_other_rewards_is_refused():
    state = MixtureState.start([own("a", normalise=True)])
    with pytest.raises(RunError, match=r"normalised components \['b'\], the checkpoint \['a'\]"):
        mixed([own("b", normalise=True)], {"b": given(1, 2, 3, 4)}, state)


def test_answers_of_another_length_are_refused():
    with pytest.raises(ValueError, match="'a'.*expects 4 entries, one per row, got 3"):
        mixed([own("a")], {"a": given(1, 2, 3)})
    with pytest.raises(ValueError, match="problems expects 1 entries"):
        ComponentScores((1.0,), ())


def test_without_rewards_scores_are_zero():
    got = mixed([], {})
    assert got.scores == (0.0,) * 4
    assert got.keep == (True,) * 4


def test_addresses_are_shown_without_secrets():
    judge = JudgeReward(
        kind="judge", name="j", base_url="http://me:secret@host:1/v1?key=secret", model="m", prompt="{response}"
    )
    with pytest.raises(RunError) as error:
        mixed([judge], {"j": given(*NONE, problems=("away",) * 4)})
    assert "reward 'j' (http://host:1/v1): no number for 4 of 4" in str(error.value)
    assert "secret" not in str(error.value)


def test_a_component_may_count_by_its_log_sigmoid():
    reward = own("a", weight=2.0, log_sigmoid_around={task: float(n) for n, task in enumerate(ROWS.tasks)})
    values = [float(n) for n in range(len(ROWS.tasks))]
    found = mixed([reward], {"a": given(*values)})
    offsets = {task: float(n) for n, task in enumerate(ROWS.tasks)}
    want = [2.0 * -math.log1p(math.exp(-(v - offsets[t]))) for v, t in zip(values, ROWS.tasks, strict=True)]
    assert found.scores == pytest.approx(want)
    assert found.metrics["reward_a"] == pytest.approx(sum(values) / len(values)), "the metric is the number as it came"
    with pytest.raises(RunError, match="rewards.a.log_sigmoid_around expects a number for each task"):
        mixed([own("a", log_sigmoid_around={"other": 0.0})], {"a": given(*values)})
    same = mixed([own("a", log_sigmoid_around=0.5)], {"a": given(*values)})
    assert same.scores == pytest.approx([-math.log1p(math.exp(0.5 - v)) for v in values])


@pytest.mark.parametrize("other", [{"normalise": True}, {"cost": {"bound": 0.0}}])
def test_two_scales_of_one_component_are_refused(other):
    with pytest.raises(ValidationError, match="both say in which units"):
        own("a", log_sigmoid_around=0.0, **other)


def of_turns(*turns, problems=None):
    values = tuple(sum(v for v in own if v is not None) if own else None for own in turns)
    return ComponentScores(values, problems or (None,) * len(turns), turns=turns)


def test_numbers_of_turns_are_weighted_as_the_scores_that_have_their_sum():
    rewards = [own("a"), own("b", weight=2.0, per_turn=True), own("c", per_turn=True), cost("harm", 1.0)]
    answers = {"a": given(1, 1, 1, 1), "harm": given(0, 0, 0, 0)}
    answers |= {"b": of_turns((1.0, None), (0.5,), (), (2.0,)), "c": of_turns((3.0, 4.0), (), (), (1.0,))}
    got = mixed(rewards, answers)
    assert 1.0 + got.metrics["lagrange_harm"] == 2.0
    assert got.turns == ((2.5, 2.0), (0.5,), (), (2.5,))
    assert got.scores == pytest.approx([(1 + 9) / 2, (1 + 1) / 2, 0.5, (1 + 5) / 2])
    assert got.metrics["reward_b"] == pytest.approx((1 + 0.5 + 2) / 3)
    assert mixed([own("a")], {"a": given(1, 1, 1, 1)}).turns == ()


def test_numbers_of_turns_in_units_of_all_turns_of_their_group():
    rows = replace(ROWS, groups=(7, 7, 9, 9))
    answers = {"a": of_turns((1.0, None, 3.0), (5.0,), (2.0,), (2.0, 2.0))}
    got = mixed([own("a", per_turn=True, normalise="group")], answers, rows=rows)
    assert got.turns[0] == pytest.approx((-1.0, 0.0, 0.0), abs=1e-5)  # mean 3, deviation 2 of 1, 3, 5
    assert got.turns[1] == pytest.approx((1.0,), abs=1e-5)
    assert got.turns[2:] == ((0.0,), (0.0, 0.0))
    assert got.scores == pytest.approx((-1.0, 1.0, 0.0, 0.0), abs=1e-5)


def test_the_numbers_of_turns_become_those_of_their_rows():
    said = ComponentScores((1.0, 2.0, None, None, 4.0), (None, None, "late", None, None))
    got = ComponentScores.of_turns(said, [0, 0, 1, 2, 3], 4)
    assert got.values == (3.0, None, None, 4.0)
    assert got.problems == (None, "turn 1: late", None, None)
    assert got.turns == ((1.0, 2.0), (), (), (4.0,))
    assert got.select([3, 0]).turns == ((4.0,), (1.0, 2.0))
    joined = ComponentScores.concat([got, given(7.0)])
    assert joined.turns == (*got.turns, ())
    with pytest.raises(ValueError, match="turns expects 2 entries"):
        ComponentScores((1.0, 2.0), (None, None), turns=((1.0,),))
