"""A generator that starts when there is room for it, takes part in a running stream, and leaves it when it dies."""

import time
from collections.abc import Iterator
from typing import Any

import pytest
import ray
from ray.util.placement_group import remove_placement_group

from mmrlhf_ray.config.base import DeadlineConfig
from mmrlhf_ray.config.placement import RolePlacement
from mmrlhf_ray.errors import RoleFailed, RunError
from mmrlhf_ray.pipelines.ppo.state import DriverState
from mmrlhf_ray.pipelines.ppo.step import Step, ppo_step
from mmrlhf_ray.pipelines.ppo.stream import Stream
from mmrlhf_ray.runtime.actors import Seat, reserve
from mmrlhf_ray.workers.crew import Crew
from mmrlhf_ray.workers.watch import Watch
from tests.ray.light_fleet import Light, Times, configuration, light_fleet

SOON_S = 60.0

pytestmark = pytest.mark.usefixtures("session")


@pytest.fixture
def light() -> Iterator[Any]:
    handle: Any = ray.remote(Light).options(num_cpus=0, max_concurrency=1000).remote()
    yield handle
    ray.kill(handle)


def test_a_generator_joins_when_there_is_room_and_leaves_when_it_dies(light: Any) -> None:
    cfg = configuration(steps=5000, stream={"max_staleness": 1})
    everything = RolePlacement(num_cpus=ray.cluster_resources()["CPU"])
    occupied = reserve([[Seat("other", "other-0", everything)]], "PACK", DeadlineConfig(placement_s=SOON_S))
    watch = Watch(cfg.recovery)
    seat = Seat("generator", "generator-1", everything)
    own = Crew((), occupied, f"joining-{time.monotonic_ns()}", watch, later=(seat,))
    second: Any = own.spawn(seat, Light)
    fleet, state = light_fleet(light, cfg, Times(generate_s=0.01, update_s=0.02), watch, second), DriverState.start(cfg)
    stream, steps = Stream(fleet, cfg, state, 0), list[Step]()

    def until(generators: int) -> None:
        while not steps or steps[-1].metrics["generators"] != generators:
            steps.append(ppo_step(fleet, stream, cfg, steps[-1].state if steps else state))

    try:
        with watch:
            until(1)
            for _ in range(5):
                steps.append(ppo_step(fleet, stream, cfg, steps[-1].state))
            assert {step.metrics["generators"] for step in steps} == {1.0}
            remove_placement_group(occupied)
            watch.wait(["generator-1"], SOON_S)
            fleet.revive(RoleFailed("another one died"), stream.version)
            assert ray.get(second.version.remote()) == stream.version, "it serves, with the weights of the start"
            until(2)
            for _ in range(5):
                steps.append(ppo_step(fleet, stream, cfg, steps[-1].state))
            assert ray.get(second.groups.remote()) > 0
            assert ray.get(second.proven.remote()) == 1, "when it joined, and never again"
            ray.kill(second, no_restart=False)
            until(1)
            until(2)  # it was started again where it was
            assert ray.get(second.proven.remote()) == 1, "in its new life"
    finally:
        own.give_back()
    updates = ray.get(light.updates.remote())
    trained = [position for update in updates for position, _ in update]
    assert len(trained) == len(set(trained)) == 4 * len(steps)
    assert all(number - version <= 1 for number, update in enumerate(updates) for _, version in update)


def test_a_generator_that_computes_something_else_does_not_serve(light: Any) -> None:
    cfg = configuration(steps=5000, stream={"max_staleness": 1})
    nothing = reserve([[Seat("other", "other-0", RolePlacement(num_cpus=0))]], "PACK", cfg.deadlines)
    watch = Watch(cfg.recovery)
    seat = Seat("generator", "generator-1", RolePlacement())
    own = Crew((), nothing, f"proof-{time.monotonic_ns()}", watch, later=(seat,))
    second: Any = own.spawn(seat, Light, Times(wrong_by=0.01))
    fleet, state = light_fleet(light, cfg, Times(generate_s=0.01, update_s=0.02), watch, second), DriverState.start(cfg)
    stream, until = Stream(fleet, cfg, state, 0), time.monotonic() + SOON_S

    def steps() -> None:
        now = state
        while time.monotonic() < until:
            now = ppo_step(fleet, stream, cfg, now).state

    said = "generator-1 is not what the learner is: their log-probabilities differ for text prompts"
    try:
        with watch, pytest.raises(RunError, match=said):
            steps()
    finally:
        own.give_back()
    assert ray.get(light.proven.remote()) == 0, "who served from the start was compared in the first step"
