"""Reward models over segments, which pairs they ask about, and who answers."""

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mmrlhf_ray.behaviour.annotators import ScriptJudge, TrueJudge, noisy_vote
from mmrlhf_ray.behaviour.choosing import choose_pairs, due
from mmrlhf_ray.behaviour.env import RecordedEnv
from mmrlhf_ray.behaviour.ledger import PREFERRED, Ledger
from mmrlhf_ray.behaviour.reward import RewardEnsemble, RewardLearner, Votes, agreement, vote_weights
from mmrlhf_ray.behaviour.scripts import Measure, states_of
from mmrlhf_ray.behaviour.segments import Recorded, Segment, stacked
from mmrlhf_ray.config.behaviour import AskSection, RewardEnsembleSection, ScriptAnnotators
from mmrlhf_ray.errors import ConfigError
from tests.unit import behaviour_tiny as tiny
from tests.unit.behaviour.test_env import played
from tests.unit.behaviour_tiny import GOAL, Line, job

TRUE = TrueJudge()
SECTION = RewardEnsembleSection(hidden=(32,), lr=3e-3, weight_decay=0.0)


@pytest.fixture(scope="module")
def segments() -> list[Recorded]:
    with closing(RecordedEnv(job())) as env:
        return played(env, 1500)


def ensemble(seed: int = 0) -> RewardEnsemble:
    with closing(RecordedEnv(job())) as env:
        return RewardEnsemble(SECTION, env.observation_space, env.action_space, seed)


def voted(segments: list[Recorded], count: int, seed: int = 0) -> Votes:
    rng = np.random.default_rng(seed)
    pairs = [rng.choice(len(segments), 2, replace=False) for _ in range(count)]
    first, second = ([segments[pair[side]] for pair in pairs] for side in (0, 1))
    preferred = [PREFERRED[TRUE(a, b)] for a, b in zip(first, second, strict=True)]
    ids = [f"{seed}-{n}" for n in range(count)]
    return Votes(
        stacked([r.segment for r in first]),
        stacked([r.segment for r in second]),
        np.array(preferred, np.float32),
        vote_weights(ids, SECTION.members, SECTION.heldout),
    )


def test_votes_teach_where_the_goal_is(segments: list[Recorded]) -> None:
    models = ensemble()
    votes, rng = voted(segments, 300), np.random.default_rng(0)
    before = np.nanmean(agreement(models, voted(segments, 200, seed=1)))
    models.scale_inputs(stacked([r.segment for r in segments]))
    loss = RewardLearner(models).learn(votes, 400, rng)
    models.normalise(stacked([r.segment for r in segments]))
    unseen = np.nanmean(agreement(models, voted(segments, 200, seed=1)))
    assert unseen > 0.9
    assert unseen > before
    assert loss < 0.4
    places = np.linspace(-1, 1, 21, dtype=np.float32)
    rewards = models.rewards(Segment({"state": places[:, None]}, np.ones(21, np.int64)))
    assert abs(places[rewards.argmax()] - GOAL) <= 0.3


def test_rewards_are_normalised(segments: list[Recorded]) -> None:
    models = ensemble()
    steps = stacked([r.segment for r in segments])
    models.normalise(steps)
    flat = Segment({"state": steps.observations["state"].reshape(-1, 1)}, steps.actions.reshape(-1))
    rewards = models.rewards(flat)
    assert rewards.shape == (len(segments) * 5,)
    assert rewards.mean() == pytest.approx(0.0, abs=1e-4)
    assert 0.3 < rewards.std() <= 1.0001


def test_held_out_votes_teach_nothing(segments: list[Recorded]) -> None:
    models, votes = ensemble(), voted(segments, 50)
    nothing = Votes(votes.first, votes.second, votes.preferred, np.zeros_like(votes.weights))
    before = {name: value.clone() for name, value in models.state_dict().items()}
    assert np.isnan(RewardLearner(models).learn(nothing, 10, np.random.default_rng(0)))
    assert all((before[name] == value).all() for name, value in models.state_dict().items())


def test_a_learner_continues_as_if_it_had_not_stopped(segments: list[Recorded]) -> None:
    votes = voted(segments, 50)
    through = RewardLearner(ensemble())
    for step in range(2):
        through.learn(votes, 5, np.random.default_rng(step))
    first, second = RewardLearner(ensemble()), RewardLearner(ensemble(seed=9))
    first.learn(votes, 5, np.random.default_rng(0))
    second.restore(first.state())
    second.learn(votes, 5, np.random.default_rng(1))
    own, other = through.ensemble.state_dict(), second.ensemble.state_dict()
    assert all((own[name] == other[name]).all() for name in own)


def test_a_vote_weighs_the_same_however_many_come_after_it() -> None:
    few, many = vote_weights(["a", "b"], 4, 0.2), vote_weights(["c", "b", "a"], 4, 0.2)
    assert (few == many[:, [2, 1]]).all()
    lots = vote_weights([str(n) for n in range(4000)], 3, 0.2)
    assert lots.mean() == pytest.approx(0.8, abs=0.03)
    assert (lots.any(0)).mean() == pytest.approx(0.8 * (1 - np.exp(-3)), abs=0.03)


def test_pairs_are_due_early() -> None:
    ask = AskSection(pairs=100, first=20)
    asked = [due(ask, step, 11) for step in range(11)]
    assert asked[0] == 20
    assert asked[-1] == 100
    added = np.diff(asked)
    assert (np.diff(added) <= 0).all()
    assert due(ask, 0, 1) == 20


def test_disagreement_chooses_the_pairs_of_most_doubt(segments: list[Recorded]) -> None:
    models = ensemble()
    ask = AskSection(pairs=100, first=20, candidates=10)
    chosen = choose_pairs(segments, 10, ask, models, np.random.default_rng(0))
    at_random = choose_pairs(
        segments, 10, ask.model_copy(update={"choose": "random"}), models, np.random.default_rng(0)
    )

    def doubt(pairs: list[tuple[Recorded, Recorded]]) -> float:
        sides = (stacked([pair[side].segment for pair in pairs]) for side in (0, 1))
        return float(models.preferences(*sides).var(0).mean())

    assert doubt(chosen) > 1.5 * doubt(at_random)
    assert len({(a.name, b.name) for a, b in chosen}) == 10
    assert all(a.name != b.name for a, b in chosen)


def test_noisy_votes_are_wrong_so_often_and_the_same_again(segments: list[Recorded], tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    wrong = told = 0
    for number in range(200):
        a, b = segments[number], segments[number + 50]
        pair = ledger.ask(a, b, 0)
        vote = noisy_vote(TRUE, pair, a, b, 0.25, seed=0)
        assert noisy_vote(TRUE, pair, a, b, 0.25, seed=0) == vote
        if (right := TRUE(a, b)) != "tie":
            told += 1
            wrong += vote.choice != right
    assert 0.15 < wrong / told < 0.35


def script(function: str, deadline_s: float = 30.0) -> ScriptJudge:
    return ScriptJudge(ScriptAnnotators(kind="script", judge=function, deadline_s=deadline_s))


def test_a_script_judges_by_what_it_sees(segments: list[Recorded]) -> None:
    by_place = sorted(segments, key=lambda r: float(r.segment.observations["state"].mean()))
    with closing(script(f"{tiny.__file__}:judge")) as judge:
        assert judge(by_place[0], by_place[-1]) == "left"
        assert judge(by_place[-1], by_place[0]) == "right"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return 1", "expected left, right or tie, got 1"),
        ("return states['x']", "raised TypeError"),
        ("return {1, 2}", "raised TypeError"),
        ("import nothing_like_it", "raised ModuleNotFoundError"),
        ("import time; time.sleep(60)", "did not answer by its deadline and was killed"),
        ("import os; os._exit(3)", "ended its process with status 3"),
    ],
)
def test_a_wrong_script_is_named(body: str, message: str, segments: list[Recorded], tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(f"def judge(states, others):\n    {body}\n")
    named = pytest.raises(ConfigError, match=f"annotators.judge=.*mine.py:judge: {message}")
    with closing(script(f"{file}:judge", deadline_s=2.0)) as judge, named:
        judge(segments[0], segments[1])


def test_a_script_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match="annotators.judge=/nowhere.py:judge"):
        script("/nowhere.py:judge")


def test_a_measure_is_of_numbers(segments: list[Recorded], tmp_path: Path) -> None:
    with closing(Measure(None, 1.0)) as nothing:
        assert nothing(segments[0]) == {}
    with closing(Measure(f"{tiny.__file__}:measure", 30.0)) as measure:
        last = float(segments[0].segment.observations["state"][-1, 0])
        assert measure(segments[0]) == {"last place": pytest.approx(last)}
    (tmp_path / "mine.py").write_text("def measure(states):\n    return 'far'\n")
    wrong = pytest.raises(ConfigError, match="evaluation.measure=.*: expected a dictionary of numbers, got 'far'")
    with closing(Measure(f"{tmp_path}/mine.py:measure", 30.0)) as measure, wrong:
        measure(segments[0])


def test_states_hold_what_json_can(segments: list[Recorded]) -> None:
    facts = [{"others": {7: (np.float64(1.5), np.int64(2))}, "seen": np.ones(2)}] * 5
    state = states_of(replace(segments[0], facts=facts))[0]
    assert json.loads(json.dumps(state))["facts"] == {"others": {"7": [1.5, 2]}, "seen": [1.0, 1.0]}


def test_line_is_what_these_tests_take_it_for() -> None:
    env = Line()
    env.reset(seed=0)
    assert env.step(1)[1] == pytest.approx(-abs(env.place - GOAL))
