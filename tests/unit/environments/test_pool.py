"""Episodes with tools in real processes: whatever a tool does, the policy is told, and the episode goes on."""

import asyncio
import os
import time
from pathlib import Path

import psutil
import pytest

from mmrlhf_ray.data.media import decode_image
from mmrlhf_ray.environments.check import tool_schemas
from mmrlhf_ray.environments.pool import EnvironmentPool
from mmrlhf_ray.environments.protocol import EpisodeFailed, Shown
from tests.unit.environments.support import play, run, tools

OWN = Path(__file__).parent / "own_tools.py"
NAMES = (
    *("brightness", "darker", "louder", "first", "nothing", "hang", "fail", "leave", "long_text", "large_bytes"),
    *("rubbish", "bomb", "thing", "swell", "several", "half_character"),
)
CONFIG = tools("crop", *(f"{OWN}:{name}" for name in NAMES), call_s=3, max_turns=9, memory_mb=4096, max_media=4)


@pytest.fixture(scope="module")
def pool():
    made = EnvironmentPool(CONFIG)
    yield made
    made.shut_down()


def one(pool, start, turn):
    return run(play(pool, start, turn))[0]


def test_a_call_shows_and_an_answer_ends(pool, start, image):
    shown, answered = run(play(pool, start(image), "crop 0 0 500 500", "red"))
    (part,) = shown.observation
    assert (part.kind, part.mime, shown.reward, shown.done, shown.problem) == ("image", "image/png", None, False, None)
    assert decode_image(part.data).getcolors() == [(200, (255, 0, 0))]
    assert (answered.observation, answered.done, answered.problem) == ((), True, None)


def test_clips_of_observations_are_counted_on(pool, start, image):
    steps = run(
        play(pool, start(image), "crop 500 0 1000 500", "crop 0 0 1000 1000 2", "brightness 0 0 3", "brightness 2")
    )
    assert decode_image(steps[1].observation[0].data).getcolors() == [(200, (0, 255, 0))]
    assert steps[2].observation == ("255",)
    assert "at of brightness needs 2 values" in steps[3].problem


@pytest.mark.parametrize(
    ("turn", "problem"),
    [
        ("hang", "took longer than 3 s and was stopped (call_s)"),
        ("leave", "ended its process with status 7"),
        ("fail", "fail failed: raised KeyError: 'no such thing' (own_tools.py, line"),
        ("long_text", "the text has 100000000 characters and is cut off after 4000"),
        ("large_bytes", "not shown: image of 100000008 bytes, the limit is 8388608"),
        ("rubbish", "rubbish failed: returned bytes that are no media: expected image"),
        ("bomb", "not shown: image exceeds the limit of 50000000 pixels"),
        ("thing", "thing failed: returned a object, expected text, a picture"),
        ("swell", "swell failed: raised MemoryError: Unable to allocate"),
        ("several", "not shown: 4 clips have been shown, which is the limit"),
        ("crop 0 0 500 500 2", "crop failed: there is no image 2; so far 1 image was shown"),
        ("crop 5 0 5 9", "the box [5.0, 0.0, 5.0, 9.0] is empty"),
        ("crop a 0 5 9", "crop failed: wrong arguments (box.0: Input should be a valid number"),
        ("crop 1 2", "box of crop needs 4 values, got 2"),
        ("darker 0", "wrong arguments (by: Input should be greater than or equal to 1)"),
        ("louder", "there is no sound 1; so far no sound was shown"),
        ("louder 1 2", "there is no sound 1"),
    ],
)
def test_a_tool_that_fails_is_told_and_the_episode_goes_on(pool, start, image, turn, problem):
    failed, next_one = run(play(pool, start(image), turn, "brightness"))
    assert problem in failed.problem
    assert problem in " ".join(part for part in failed.observation if isinstance(part, str))
    assert sum(len(part) for part in failed.observation if isinstance(part, str)) < 5000
    assert not failed.done
    assert (next_one.observation, next_one.problem) == (("255",), None)


def test_a_process_that_is_replaced_knows_what_was_shown(pool, start, image):
    async def look():
        other = await pool.reset(start(image))
        episode = await pool.reset(start(image))
        await pool.step(other, "crop 500 0 1000 500")
        await pool.step(episode, "crop 0 500 500 1000")
        assert "stopped" in (await pool.step(episode, "hang")).problem
        steps = [await pool.step(e, "crop 0 0 1000 1000 2") for e in (episode, other)]
        for e in (episode, other):
            await pool.close(e)
        return [decode_image(step.observation[0].data).getcolors()[0][1] for step in steps]

    assert run(look()) == [(0, 0, 255), (0, 255, 0)]


def test_what_a_tool_returns_becomes_parts(pool, start, image, tone, film):
    steps = run(play(pool, start(image, tone, film), "darker", "louder", "first", "nothing", "half_character"))
    assert decode_image(steps[0].observation[0].data).getpixel((0, 0)) == (127, 0, 0)
    text, loud, peak = steps[1].observation
    assert (text, loud.kind, loud.mime, peak[:9]) == ("louder:", "audio", "audio/wav", '{"peak": ')
    assert [(p.kind, p.mime) for p in steps[2].observation] == [("video", "video/webm")]
    assert (steps[3].observation, steps[3].problem) == ((), None)
    assert steps[4].observation == ("? and a whole one",)


def test_clips_of_an_episode_are_bounded(pool, start, image):
    steps = run(play(pool, start(image), *["crop 0 0 500 500"] * 5))
    assert [any(isinstance(p, Shown) for p in step.observation) for step in steps] == [True] * 4 + [False]
    assert "the limit" in steps[4].problem


def test_the_last_turn_ends_the_episode(pool, start, image):
    async def turns():
        episode = await pool.reset(start(image))
        done = [(await pool.step(episode, "brightness")).done for _ in range(9)]
        with pytest.raises(ValueError, match="the episode is done"):
            await pool.step(episode, "brightness")
        await pool.close(episode)
        await pool.close(episode)
        return done

    assert run(turns()) == [False] * 8 + [True]


def test_schemas_are_as_the_policy_is_told(pool):
    schemas = {tool["function"]["name"]: tool["function"] for tool in tool_schemas(CONFIG)}
    assert list(schemas) == ["crop", *NAMES]
    assert schemas["brightness"]["description"] == "Tell how bright a point is."
    parameters = schemas["brightness"]["parameters"]
    assert list(parameters["properties"]) == ["at", "image"]
    assert parameters["properties"]["at"]["description"] == "column and row"
    assert parameters["properties"]["image"]["default"] == 1
    assert "required" not in parameters
    assert schemas["crop"]["parameters"]["required"] == ["box"]


def test_processes_run_at_one_time_and_end_with_the_pool(start, image):
    pool = EnvironmentPool(CONFIG.model_copy(update={"processes": 2, "call_s": 60.0, "max_turns": 2}))
    ours = psutil.Process(os.getpid())
    before = {child.pid for child in ours.children(recursive=True)}

    async def both():
        episodes = await asyncio.gather(*(pool.reset(start(image)) for _ in range(2)))
        hanging = asyncio.create_task(pool.step(episodes[0], "hang"))
        assert (await pool.step(episodes[1], "brightness")).observation == ("255",)
        third = await pool.reset(start(image))
        assert third._seat is episodes[1]._seat, "the one that does not hang"
        assert not hanging.done()
        begun = time.monotonic()
        await asyncio.to_thread(pool.shut_down)
        assert time.monotonic() - begun < 30
        with pytest.raises(EpisodeFailed, match="shut down"):
            await hanging
        with pytest.raises(EpisodeFailed, match="shut down"):
            await pool.reset(start(image))
        await pool.close(third)
        pool.shut_down()

    run(both())
    assert {child.pid for child in ours.children(recursive=True)} <= before


def test_what_cannot_be_imported_fails_the_episode(start, tmp_path):
    (tmp_path / "broken.py").write_text("import no_such_module\n")
    pool = EnvironmentPool(tools(f"{tmp_path}/broken.py:look"))
    with pytest.raises(EpisodeFailed, match="cannot be loaded: it raised ModuleNotFoundError: No module named"):
        run(pool.reset(start()))
    pool.shut_down()


def test_auto_must_have_been_decided():
    with pytest.raises(ValueError, match="with_format"):
        EnvironmentPool(CONFIG.model_copy(update={"call_format": "auto"}))
