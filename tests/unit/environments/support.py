"""Tools by name, and whole episodes in one line."""

import asyncio
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import httpx

from mmrlhf_ray.config import ToolsEnvironment

RATE = 8000
"""Of the sound, in Hz."""
SERVER = Path(__file__).parent / "server.py"
START_S = 60


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


@contextmanager
def served():
    """The port of an environment server in a process of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen([sys.executable, str(SERVER), str(port)])
    try:
        until = time.monotonic() + START_S
        while True:
            try:
                httpx.get(f"http://127.0.0.1:{port}/health")
                break
            except httpx.ConnectError:
                assert server.poll() is None
                assert time.monotonic() < until
                time.sleep(0.1)
        yield port
    finally:
        server.kill()
        server.wait()
