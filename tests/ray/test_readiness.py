"""A line for each actor that has started, whoever is waited for first."""

import re
import time
from typing import Any

import pytest
import ray

from mmrlhf_ray.runtime.readiness import Readiness


class Slow:
    """Takes a while to start, or fails at it."""

    def __init__(self, seconds: float, fails: bool = False) -> None:
        time.sleep(seconds)
        if fails:
            raise ValueError("no")

    @ray.method
    def alive(self) -> bool:
        """Answered when it has started."""
        return True


@pytest.mark.usefixtures("session")
def test_each_actor_is_named_when_it_has_started_and_not_where_it_failed() -> None:
    said: list[str] = []
    readiness, kind = Readiness(said.append), ray.remote(num_cpus=0)(Slow)
    actors: list[Any] = [kind.remote(4.0), kind.remote(0.0), kind.remote(0.0, fails=True)]
    for name, actor in zip(("slow-0", "quick-0", "never-0"), actors, strict=True):
        readiness.add(name, actor.alive.remote())
    until = time.monotonic() + 120
    while len(said) < 2 and time.monotonic() < until:
        time.sleep(0.1)
    readiness.close()
    assert [line.partition(" ")[0] for line in said] == ["quick-0", "slow-0"]
    assert all(re.fullmatch(r"\w+-0 ready after \d+ (s|min \d+ s)", line) for line in said)
    for actor in actors:
        ray.kill(actor)


def test_one_without_actors_can_be_closed() -> None:
    Readiness(print).close()
