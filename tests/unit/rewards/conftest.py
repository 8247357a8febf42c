"""Reward functions in files of their own."""

import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mmrlhf_ray.config import FunctionReward
from mmrlhf_ray.rewards.user import FunctionProcess


@pytest.fixture
def function(tmp_path: Path) -> Iterator[Callable[..., FunctionProcess]]:
    """A function of the given source, `f` unless told otherwise, in its process; all processes end with the test."""
    started: list[FunctionProcess] = []

    def make(source: str, name: str = "f", **keys: Any) -> FunctionProcess:
        file = tmp_path / "mine.py"
        file.write_text(textwrap.dedent(source))
        reward = FunctionReward(kind="function", name="own", function=f"{file}:{name}", **keys)
        started.append(FunctionProcess(reward))
        return started[-1]

    yield make
    for process in started:
        process.close()
