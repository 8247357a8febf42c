"""Recorded environments: what training sees, what it never sees, and episodes that can be seen again."""

from contextlib import closing
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from mmrlhf_ray.behaviour.clips import encode, film
from mmrlhf_ray.behaviour.env import COST, TRUE_RETURN, RecordedEnv
from mmrlhf_ray.behaviour.episodes import again, head, read_replays, whole_env, write_replays
from mmrlhf_ray.behaviour.segments import Recorded, Replay, Segment
from mmrlhf_ray.config import BehaviourConfig
from mmrlhf_ray.errors import ConfigError, RunError
from tests.unit import behaviour_tiny as tiny
from tests.unit.behaviour_tiny import GOAL, STEPS, job


def played(env: RecordedEnv, steps: int, seed: int = 1) -> list[Recorded]:
    """Segments of random actions."""
    rng = np.random.default_rng(seed)
    env.reset(seed=seed)
    for _ in range(steps):
        action = (
            rng.integers(3)
            if isinstance(env.action_space, gymnasium.spaces.Discrete)
            else rng.uniform(-1, 1, env.action_space.shape)
        )
        *_, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            env.reset()
    return env.take()


def test_the_true_reward_is_recorded_and_not_given() -> None:
    with closing(RecordedEnv(job())) as env:
        seen, _ = env.reset(seed=3)
        observation, reward, _, _, said = env.step(2)
        assert reward == 0.0
        assert said == {}
        assert set(seen) == {"state"}
        for _ in range(4):
            observation, reward, _, _, _ = env.step(2)
            assert reward == 0.0
        (found,) = env.take()
        assert env.take() == []
    places = [*found.segment.observations["state"][1:, 0], observation["state"][0]]
    assert found.true_rewards == pytest.approx([-abs(place - GOAL) for place in places], abs=1e-6)
    assert found.segment.actions.tolist() == [2] * 5


def test_the_last_step_tells_the_true_return_and_the_cost() -> None:
    with closing(RecordedEnv(job(cost={"of": "moved", "bound": 0.1}))) as env:
        env.reset(seed=0)
        rewards = [env.step(action) for action in [0, 1] * (STEPS // 2)]
        segments = env.take()
    assert [step[1] for step in rewards] == [1.0, 0.0] * (STEPS // 2)
    assert rewards[-1][3]
    assert rewards[-1][4][COST] == 0.5
    assert rewards[-1][4][TRUE_RETURN] == pytest.approx(sum(r.true_rewards.sum() for r in segments), abs=1e-5)
    assert segments[0].costs.tolist() == [1.0, 0.0, 1.0, 0.0, 1.0]


def test_an_unknown_cost_is_named_with_what_there_is() -> None:
    with closing(RecordedEnv(job(cost={"of": "crashed", "bound": 0.1}))) as env:
        env.reset(seed=0)
        with pytest.raises(ConfigError, match=r"cost.of=crashed: .* has moved"):
            env.step(0)


def test_episodes_of_fixed_length_do_not_tell_their_ends() -> None:
    keys = {"id": "tests.unit.behaviour_tiny:Line-v0", "arguments": {"ends": True}}
    with closing(RecordedEnv(job(environment=keys))) as env:
        env.reset(seed=0)
        assert any(env.step(2)[2] for _ in range(STEPS))
    with closing(RecordedEnv(job(environment=keys | {"episode_steps": 50}))) as env:
        env.reset(seed=0)
        ends = [(step[2], step[3]) for step in (env.step(2) for _ in range(50))]
        assert ends == [(False, False)] * 49 + [(False, True)]


def test_the_first_seed_alone_decides_and_episodes_differ() -> None:
    with closing(RecordedEnv(job())) as one, closing(RecordedEnv(job())) as other:
        first = [env.reset(seed=5)[0]["state"][0] for env in (one, other)]
        second = [env.reset(seed=5)[0]["state"][0] for env in (one, other)]
    assert first[0] == first[1] != second[0] == second[1]


def test_a_segment_is_played_again_as_it_was(tmp_path: Path) -> None:
    cfg = job(environment={"id": "tests.unit.behaviour_tiny:Line-v0", "facts": f"{tiny.__file__}:facts"})
    with closing(RecordedEnv(cfg)) as env:
        found = played(env, 60)[6]
    with closing(whole_env(cfg)) as env:
        same = again(env, found.replay)
    assert same.name == found.name
    assert np.array_equal(same.segment.observations["state"], found.segment.observations["state"])
    assert np.array_equal(same.true_rewards, found.true_rewards)
    assert same.facts[2] == found.facts[2]
    assert (
        found.facts[-1]["place"] == pytest.approx(GOAL + found.true_rewards[-1], abs=1e-5) or found.true_rewards[-1] < 0
    )
    write_replays(tmp_path / "replays.json", [found.replay, head(found.replay, 3)])
    back = read_replays(tmp_path / "replays.json")
    assert back[0].name == found.name
    assert (len(back[1].actions), back[1].shown) == (3, 3)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("time.sleep(60)", "environment.facts=.*slow.py:facts: no answer within environment.facts_s=0.2 s"),
        ("raise ConfigError('no such joint')", "no such joint"),
    ],
)
def test_facts_that_never_come_end_the_run_and_keep_nothing(body: str, error: str, tmp_path: Path) -> None:
    source = f"import time\nfrom mmrlhf_ray.errors import ConfigError\ndef facts(env):\n    {body}\n"
    (tmp_path / "slow.py").write_text(source)
    section = {"id": "tests.unit.behaviour_tiny:Line-v0", "facts": f"{tmp_path / 'slow.py'}:facts", "facts_s": 0.2}
    with closing(RecordedEnv(job(environment=section))) as env:
        env.reset(seed=1)
        with pytest.raises(ConfigError, match=error):
            env.step(env.action_space.sample())


def test_a_deadline_for_no_facts_is_refused() -> None:
    with pytest.raises(ValueError, match="facts_s=5 has no effect without facts"):
        job(environment={"id": "tests.unit.behaviour_tiny:Line-v0", "facts_s": 5})


def test_clips_show_the_segment_or_none() -> None:
    cfg = job()
    with closing(RecordedEnv(cfg)) as env:
        found = played(env, 20)[1]
    with closing(RecordedEnv(cfg, render=True)) as env:
        frames = film(env, found.replay, found.segment)
        assert frames.shape == (5, 16, 64, 3)
        assert frames.any()
        assert encode(frames, 10)[:4] == b"\x1aE\xdf\xa3"
        wrong = Segment({"state": found.segment.observations["state"] + 0.1}, found.segment.actions)
        with pytest.raises(RunError, match="another one when it is played again"):
            film(env, found.replay, wrong)


def test_vectors_of_actions_are_scaled_and_clipped() -> None:
    cfg = job(environment={"id": "Pendulum-v1"})
    with closing(RecordedEnv(cfg)) as env:
        assert env.action_space == gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
        env.reset(seed=0)
        for _ in range(5):
            env.step(np.array([3.0]))
        (found,) = env.take()
    assert found.segment.actions.tolist() == [[1.0]] * 5
    own = gymnasium.make("Pendulum-v1")
    own.reset(seed=int(np.random.default_rng(found.replay.seed).integers(2**31)))
    seen = [own.step(np.array([2.0]))[0] for _ in range(5)]
    assert found.segment.observations["state"][1:] == pytest.approx(np.stack(seen[:4]), abs=1e-5)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("Nowhere-v0", "environment.id=Nowhere-v0: it cannot be made"),
        ("no_such_module:Nowhere-v0", "cannot be made"),
    ],
)
def test_what_cannot_be_made_is_named(key: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RecordedEnv(job(environment={"id": key}))


ENVIRONMENTS = {
    "highway": (
        "highway_env",
        {"id": "highway_env:highway-fast-v0", "arguments": {"config": {"duration": 8, "vehicles_count": 5}}},
    ),
    "highway, three views": (
        "highway_env",
        {
            "id": "highway_env:highway-fast-v0",
            "arguments": {
                "config": {
                    "duration": 8,
                    "vehicles_count": 5,
                    "observation": {
                        "type": "TupleObservation",
                        "observation_configs": [{"type": "Kinematics"}, {"type": "LidarObservation", "cells": 8}],
                    },
                }
            },
            "picture": {"height": 16, "width": 48},
        },
    ),
    "robot": ("mujoco", {"id": "Reacher-v5"}),
    "game": ("minatar", {"id": "MinAtar/Breakout-v1", "episode_steps": 30}),
}


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_environments_of_the_extra_are_recorded_and_filmed(name: str) -> None:
    module, keys = ENVIRONMENTS[name]
    pytest.importorskip(module)
    cfg = BehaviourConfig.model_validate(job().model_dump() | {"environment": keys})
    with closing(RecordedEnv(cfg)) as env:
        found = played(env, 12)[-1]
        assert env.observation_space.contains({k: v[0] for k, v in found.segment.observations.items()})
    assert isinstance(found.replay, Replay)
    with closing(RecordedEnv(cfg, render=True)) as env:
        frames = film(env, found.replay, found.segment)
    assert len(frames) == 5
    assert frames.std() > 0
