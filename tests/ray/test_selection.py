"""Prompts that are skipped for their pass rates, in the stream of a run whose actors answer without models."""

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import ray

from mmrlhf_ray.config import PPOConfig
from mmrlhf_ray.pipelines.ppo.state import DriverState
from mmrlhf_ray.pipelines.ppo.step import Step, ppo_step
from mmrlhf_ray.pipelines.ppo.stream import Stream
from mmrlhf_ray.runtime.session import SessionInfo
from tests.ray.light_fleet import PROMPTS, Light, Times, configuration, light_fleet

SOLVED = {"solved_at": 0.5, "solved_rate": 0.25}


@pytest.fixture(scope="module")
def light(session: SessionInfo) -> Iterator[Any]:
    """An actor that all fleets here are made of."""
    handle: Any = ray.remote(Light).options(num_cpus=0, max_concurrency=1000).remote()
    yield handle
    ray.kill(handle)


def run(light: Any, cfg: PPOConfig, state: DriverState, first: int, last: int) -> tuple[list[Step], list[list[int]]]:
    """Steps `first` … `last` − 1 and the positions that each trained on. Every fourth prompt is solved each time;
    of the others each second response is."""
    fleet, steps = light_fleet(light, cfg, Times(alike_every=4)), []
    ray.get(light.finish_weight_update.remote(first))
    stream = Stream(fleet, cfg, state, first)
    with fleet.watch:
        for _ in range(first, last):
            steps.append(ppo_step(fleet, stream, cfg, state))
            state = steps[-1].state
    updates = ray.get(light.updates.remote())
    return steps, [[position for position, _ in update] for update in updates]


@pytest.mark.parametrize("stream", [{}, {"deterministic": False}, {"max_staleness": 1}])
def test_what_is_solved_is_seldom_sampled_again(light: Any, stream: dict[str, Any]) -> None:
    cfg = configuration(steps=40, selection=SOLVED, stream=stream)
    steps, trained = run(light, cfg, DriverState.start(cfg), 0, 40)
    assert all(len(update) == 4 for update in trained)
    positions = [position for update in trained for position in update]
    assert len(set(positions)) == len(positions)
    assert set(range(PROMPTS)) <= set(positions), "all are sampled once"
    later = Counter(position % 4 == 0 for position in positions if position >= PROMPTS)
    assert 0.0 < later[True] / later.total() < 0.15, "of a quarter of the prompts one in four is taken"
    assert steps[-1].metrics["prompts_sampled"] == PROMPTS
    assert steps[-1].metrics["prompts_solved"] == PROMPTS / 4
    assert steps[-1].metrics["pass_rate"] == 0.25 * 1.0 + 0.75 * 0.5
    skipped = sum(step.metrics["prompts_skipped"] for step in steps)
    assert 0 < skipped <= len(set(range(max(positions))) - set(positions))
    assert all("dropped_skipped" not in step.metrics for step in steps)


def test_a_resumed_run_draws_what_an_uninterrupted_one_does(light: Any) -> None:
    selection = {"solved_at": 0.5, "order": "frontier", "at_least": 0.3, "solved_rate": 0.5}
    cfg = configuration(steps=30, selection=selection)
    steps, trained = run(light, cfg, DriverState.start(cfg), 0, 30)
    saved = json.loads(json.dumps(steps[14].state.to_dict()))
    again, then = run(light, cfg, DriverState.resumed(cfg, saved, ()), 15, 30)
    assert then == trained[15:]
    assert again[-1].state == steps[-1].state
    names = ("prompts_sampled", "prompts_solved", "prompts_skipped", "pass_rate")
    assert [[step.metrics[name] for name in names] for step in again] == [
        [step.metrics[name] for name in names] for step in steps[15:]
    ]
    assert sum(step.metrics["prompts_skipped"] for step in again) > 0


@pytest.mark.parametrize("stream", [{}, {"max_staleness": 1}])
def test_a_run_in_which_everything_is_solved_goes_on_and_says_so(light: Any, stream: dict[str, Any]) -> None:
    cfg = configuration(steps=12, selection={"solved_at": 0.0, "solved_rate": 0.0}, stream=stream)
    steps, trained = run(light, cfg, DriverState.start(cfg), 0, 12)
    assert [len(update) for update in trained] == [4] * 12
    said = [warning for step in steps for warning in step.warnings]
    assert said
    assert all("as many prompts in a row as there are were skipped" in warning for warning in said)
