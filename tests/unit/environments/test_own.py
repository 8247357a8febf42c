"""Environments with a state of their own: a user's class, and Gymnasium."""

import asyncio
from pathlib import Path

import pytest

from mmrlhf_ray.config import GymnasiumEnvironment, PythonEnvironment
from mmrlhf_ray.data.media import decode_image
from mmrlhf_ray.environments.check import check_environment, tool_schemas
from mmrlhf_ray.environments.pool import EnvironmentPool
from mmrlhf_ray.environments.protocol import EpisodeFailed, Shown
from mmrlhf_ray.errors import ConfigError
from tests.unit.environments.support import play, run

OWN = Path(__file__).parent / "own_environments.py"


def users(name="Guess", **values):
    return PythonEnvironment(kind="python", environment=f"{OWN}:{name}", **{"processes": 1, "call_s": 3} | values)


def gym(id="own_environments:Steps-v0", **values):
    return GymnasiumEnvironment(kind="gymnasium", id=id, processes=1, **values)


@pytest.fixture(scope="module")
def pool():
    made = EnvironmentPool(users(arguments={"most": 7}, max_turns=20))
    yield made
    made.shut_down()


@pytest.fixture
def steps(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(OWN.parent))

    def played(start, *turns, **values):
        pool = EnvironmentPool(gym(**values))
        try:
            return run(_first_and_steps(pool, start, turns))
        finally:
            pool.shut_down()

    return played


async def _first_and_steps(pool, start, turns):
    episode = await pool.reset(start)
    return episode.observation, [await pool.step(episode, turn) for turn in turns]


def test_a_class_is_played(pool, start, image):
    async def both():
        episodes = [await pool.reset(start(image, extras={"number": number})) for number in (3, 5)]
        steps = [await pool.step(episode, "4") for episode in episodes]
        steps.append(await pool.step(episodes[0], "3"))
        for episode in episodes:
            await pool.close(episode)
        return episodes[0].observation, steps

    first, steps = run(both())
    assert [part for part in first if isinstance(part, str)] == ["From 0 to", "7"]
    assert [part.mime for part in first if isinstance(part, Shown)] == ["image/png"] * 2
    assert [(step.observation, step.reward, step.done) for step in steps] == [
        (("lower",), -0.25, False), (("higher",), -0.25, False), ((), 1.0, True)]  # fmt: skip


@pytest.mark.parametrize(
    ("turn", "reason"),
    [
        ("raise", r"step: raised IndexError: out of cards \(own_environments.py, line"),
        ("give up", "step: the deck is empty"),
        ("nan", r"the reward is nan \(float\), expected a finite number or None"),
        ("text", r"the reward is 'much' \(str\)"),
        ("nothing", r"step returned None \(NoneType\), expected a Step or \(observation, reward, done\)"),
        ("thing", "returned a object, expected text"),
    ],
)
def test_an_environment_that_fails_ends_its_episode_alone(pool, start, turn, reason):
    async def two():
        failing, other = [await pool.reset(start(extras={"number": 3})) for _ in range(2)]
        with pytest.raises(EpisodeFailed, match=reason):
            await pool.step(failing, turn)
        with pytest.raises(EpisodeFailed, match=reason):
            await pool.step(failing, "3")
        return await pool.step(other, "3")

    assert run(two()).done


def test_a_clip_that_is_none_is_not_shown(pool, start):
    (step,) = run(play(pool, start(extras={"number": 3}), "broken"))
    assert (step.reward, step.observation[1]) == (0.5, "look")
    assert step.observation[0].startswith("[not shown: image/png has a broken header")
    assert "broken header" in step.problem


def test_a_hang_ends_all_episodes_of_its_process_and_no_later_one(pool, start):
    async def three():
        hanging, other = [await pool.reset(start(extras={"number": 3})) for _ in range(2)]
        with pytest.raises(EpisodeFailed, match=r"took longer than 3 s"):
            await pool.step(hanging, "hang")
        with pytest.raises(EpisodeFailed, match=r"its process was replaced: another call took longer"):
            await pool.step(other, "3")
        for episode in (hanging, other):
            await pool.close(episode)
        return await play(pool, start(extras={"number": 3}), "3")

    assert run(three())[0].done


def test_one_who_stops_waiting_leaves_the_process_usable(pool, start):
    async def impatient():
        episode = await pool.reset(start(extras={"number": 3}))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pool.step(episode, "hang"), 0.2)
        return await play(pool, start(extras={"number": 3}), "2", "3")

    assert [step.done for step in run(impatient())] == [False, True]


def test_reset_that_fails_is_said(pool, start):
    with pytest.raises(EpisodeFailed, match="reset: raised KeyError: 'number'"):
        run(pool.reset(start()))


def test_gymnasium_by_words_and_pictures(steps, start):
    first, played = steps(start(), "I go Right", "up?", "left, no: right", actions={"left": 0, "right": 1})
    assert decode_image(first[0].data).getpixel((0, 0)) == (0, 0, 0)
    assert decode_image(played[0].observation[0].data).getpixel((0, 0)) == (10, 10, 10)
    assert [(step.reward, step.done) for step in played] == [(1.0, False), (0.0, False), (1.0, True)]
    assert played[1].observation == ("No action: say one of left, right.",)
    assert played[1].problem == "say one of left, right"


def test_gymnasium_by_json_and_text(steps, start):
    first, played = steps(start(seed=5), "1", "2", '{"a": 1}', "one", show="text")
    again, _ = steps(start(seed=5), "1", show="both")
    assert first == again[1:]
    assert played[0].observation[0].startswith("[1, ")
    assert [step.problem for step in played[1:]] == [
        "2 is not an action of Discrete(2)",
        '{"a": 1} is not an action of Discrete(2)',
        "the response must be the action as JSON, and nothing else",
    ]


def test_what_works_passes_the_check(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(OWN.parent))
    check_environment(users())
    check_environment(gym(actions={"left": 0}))
    assert tool_schemas(users()) == []


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (users("Nobody"), r"environment.environment=.*Nobody' cannot be used: raised ImportError"),
        (users("Lazy"), "is not a class with the methods reset and step"),
        (users("raises"), "is not a class"),
        (users(arguments={"least": 1}), r"cannot be made with the arguments \['least'\]"),
        (gym("Nothing-v0"), r"environment.id='Nothing-v0' cannot be used: raised NameNotFound"),
        (gym("own_environments:Unseen-v0"), "raised ModuleNotFoundError: no module to draw with"),
        (gym(actions={"up": 7}), r"actions.up: 7 is not in Discrete\(2\)"),
    ],
    ids=str,
)
def test_what_cannot_work_is_said_before_the_start(config, message, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(OWN.parent))
    with pytest.raises(ConfigError, match=message):
        check_environment(config)
