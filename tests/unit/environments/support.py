"""Tools by name, and whole episodes in one line."""

import asyncio

from mmrlhf_ray.config import ToolsEnvironment

RATE = 8000
"""Of the sound, in Hz."""


def tools(*names, **values):
    return ToolsEnvironment(kind="tools", tools=names, **{"processes": 1, "call_format": "words"} | values)


async def play(pool, start, *turns):
    """The steps that follow from turns."""
    episode = await pool.reset(start)
    steps = [await pool.step(episode, turn) for turn in turns]
    await pool.close(episode)
    return steps


def run(coroutine):
    return asyncio.run(coroutine)
