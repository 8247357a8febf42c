"""Tools by name, and whole episodes in one line."""

import asyncio
import io

from mmrlhf_ray.config import ToolsEnvironment


def png(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def tools(*names, **values):
    return ToolsEnvironment(kind="tools", tools=names, call_format="words", **{"processes": 1} | values)


async def play(pool, start, *turns):
    """The steps that follow from turns."""
    episode = await pool.reset(start)
    steps = [await pool.step(episode, turn) for turn in turns]
    await pool.close(episode)
    return steps


def run(coroutine):
    return asyncio.run(coroutine)
