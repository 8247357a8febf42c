"""Keys pressed while a clip plays: which parts they are about, and what reward models learn from them."""

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from mmrlhf_ray.behaviour.env import RecordedEnv
from mmrlhf_ray.behaviour.ledger import UNASKED, Ledger, Vote
from mmrlhf_ray.behaviour.presses import Pressed, comparisons
from mmrlhf_ray.behaviour.reward import RewardEnsemble, RewardLearner
from mmrlhf_ray.behaviour.segments import Clip, Recorded, Replay, Segment, stacked
from mmrlhf_ray.feedback.regions import REACTION_S, pressed
from tests.unit.behaviour.test_env import played
from tests.unit.behaviour_tiny import job

RATE, PART_S = 10, 0.6


def clip(steps: int = 50, before: int = 7) -> Clip:
    """Whose observations are the steps' numbers."""
    segment = Segment({"state": np.arange(steps, dtype=np.float32)[:, None]}, np.arange(steps) % 3)
    return Clip(segment, Replay(5, np.concatenate([np.zeros(before, np.int64), segment.actions]), steps))


def said(*presses: tuple[float, int], answer: str = "a") -> Pressed:
    regions = pressed([(0, second, sign) for second, sign in presses])
    good, bad = (tuple((r.extent[0], r.extent[1]) for r in regions if r.aspect == name) for name in ("good", "bad"))
    return Pressed(answer, "clip", "Ann", good, bad)


def steps_of(part: Clip) -> list[int]:
    return part.segment.observations["state"][:, 0].astype(int).tolist()


def test_a_press_is_about_what_was_seen_before_it() -> None:
    (region,) = pressed([(0, 2.0, 1)])
    assert region.extent == (pytest.approx(1.2), pytest.approx(1.8))
    assert (region.kind, region.aspect, pressed([(0, 2.0, -1)])[0].aspect) == ("range", "good", "bad")
    assert pressed([(0, REACTION_S[0], 1)]) == []
    ((better, worse),) = comparisons(said((2.0, 1)), clip(), PART_S, RATE)
    assert steps_of(better) == list(range(12, 18))
    assert not set(steps_of(worse)) & set(range(12, 18))


def test_good_is_above_bad_and_both_are_beside_what_nothing_was_pressed_on() -> None:
    found = [(steps_of(a)[0], steps_of(b)[0]) for a, b in comparisons(said((2.0, 1), (4.0, -1)), clip(), PART_S, RATE)]
    assert found[0] == (12, 32)
    assert [a for a, _ in found][:2] == [12, 12]
    assert found[2][1] == 32
    plain = {found[1][1], found[2][0]}
    assert all(abs(start - pressed_at) >= 6 for start in plain for pressed_at in (12, 32))


def test_what_both_keys_were_pressed_on_is_compared_with_nothing() -> None:
    assert comparisons(said((2.0, 1), (2.0, -1)), clip(), PART_S, RATE) == []
    assert comparisons(said(), clip(), PART_S, RATE) == []


@pytest.mark.parametrize("seed", range(40))
def test_parts_are_of_one_length_within_the_clip_and_can_be_shown(seed: int) -> None:
    rng = np.random.default_rng(seed)
    steps, before = int(rng.integers(6, 60)), int(rng.integers(10))
    presses = [(float(rng.uniform(0, 6)), int(rng.choice([1, -1]))) for _ in range(rng.integers(12))]
    whole = clip(steps, before)
    found = comparisons(said(*presses), whole, PART_S, RATE)
    for part in (side for both in found for side in both):
        own = steps_of(part)
        assert own == list(range(own[0], own[0] + 6))
        assert own[-1] < steps
        assert np.array_equal(part.replay.actions, whole.replay.actions[: before + own[-1] + 1])
        assert part.replay.shown == 6
    assert all(better.name != worse.name for better, worse in found)
    again = comparisons(said(*presses), whole, PART_S, RATE)
    assert [(a.name, b.name) for a, b in again] == [(a.name, b.name) for a, b in found]


@pytest.fixture(scope="module")
def segments() -> list[Recorded]:
    cfg = job(segments={"steps": 20})
    with closing(RecordedEnv(cfg)) as env:
        return played(env, 800)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_reward_is_learned_from_presses(sign: int, segments: list[Recorded], tmp_path: Path) -> None:
    """Someone presses wherever the environment's own reward is far from its mean, rightly or the wrong way round."""
    cfg, ledger = job(segments={"steps": 20}), Ledger(tmp_path)
    rewards = np.concatenate([s.true_rewards for s in segments])
    low, high = np.quantile(rewards, [0.25, 0.75])
    for number, segment in enumerate(segments):
        presses = [
            ((step + 1) / RATE + REACTION_S[0], sign if reward > high else -sign)
            for step, reward in enumerate(segment.true_rewards)
            if not low <= reward <= high
        ]
        for better, worse in comparisons(said(*presses, answer=str(number)), segment, 1 / RATE, RATE):
            pair = ledger.ask(better, worse, UNASKED)
            ledger.add([Vote(f"{number}-{pair.pair_id}", pair.pair_id, "Ann", "left")])
    votes = ledger.material(cfg.reward_model.members, cfg.reward_model.heldout)
    assert votes is not None
    with closing(RecordedEnv(cfg)) as env:
        learner = RewardLearner(RewardEnsemble(cfg.reward_model, env.observation_space, env.action_space, 0))
    learner.ensemble.scale_inputs(stacked([s.segment for s in segments]))
    learner.learn(votes, 300, np.random.default_rng(0))
    learner.ensemble.normalise(stacked([s.segment for s in segments]))
    predicted = np.concatenate([learner.ensemble.rewards(s.segment) for s in segments])
    assert sign * np.corrcoef(predicted, rewards)[0, 1] > 0.8
