"""The stream of a run, with real actors that answer without models: which groups are trained on, when, and once."""

import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from mmrlhf_ray.config import PPOConfig
from mmrlhf_ray.errors import DeadlineExceeded, RoleFailed, RunError, RunFailed
from mmrlhf_ray.pipelines.ppo.evaluation import evaluate
from mmrlhf_ray.pipelines.ppo.job import train
from mmrlhf_ray.pipelines.ppo.state import DriverState
from mmrlhf_ray.pipelines.ppo.step import Step, ppo_step
from mmrlhf_ray.pipelines.ppo.stream import Stream
from mmrlhf_ray.pipelines.resume import RunRecord, Start
from mmrlhf_ray.pipelines.runs.rollouts import kept_steps, read_step
from mmrlhf_ray.runtime.metrics import read_metrics
from mmrlhf_ray.runtime.session import SessionInfo
from mmrlhf_ray.training.checkpoint import newest_step
from tests.ray.light_fleet import ASKED, HELD_OUT, Light, Times, configuration, light_fleet


@pytest.fixture(scope="module")
def light(session: SessionInfo) -> Iterator[Any]:
    """An actor that all fleets here are made of."""
    handle: Any = ray.remote(Light).options(num_cpus=0, max_concurrency=1000).remote()
    yield handle
    ray.kill(handle)


def run(light: Any, cfg: PPOConfig, **times: Any) -> tuple[list[Step], list[list[tuple[int, int]]]]:
    """All steps, and of each update the groups: position and version that sampled it."""
    fleet, state, steps = light_fleet(light, cfg, Times(**times)), DriverState.start(cfg), []
    stream = Stream(fleet, cfg, state, 0)
    with fleet.watch:
        for _ in range(cfg.steps):
            steps.append(ppo_step(fleet, stream, cfg, state))
            state = steps[-1].state
    return steps, ray.get(light.updates.remote())


def positions(updates: list[list[tuple[int, int]]]) -> list[list[int]]:
    return [[position for position, _ in update] for update in updates]


@pytest.mark.parametrize("deterministic", [True, False])
def test_in_turns_each_step_trains_on_its_own_prompts(light: Any, deterministic: bool) -> None:
    cfg = configuration(steps=5, stream={"deterministic": deterministic})
    steps, updates = run(light, cfg, generate_s=0.02)
    assert positions(updates) == [list(range(4 * n, 4 * n + 4)) for n in range(5)]
    for number, (step, update) in enumerate(zip(steps, updates, strict=True)):
        assert {version for _, version in update} == {number}
        assert step.metrics["staleness_max"] == 0.0
        assert step.metrics["responses"] == 8.0
    assert steps[-1].state.consumed.next == 20, "nothing is drawn beyond the end"


@pytest.mark.parametrize(("max_staleness", "in_flight"), [(1, "keep"), (2, "finish")])
def test_nothing_older_than_allowed_is_trained_and_nothing_twice(
    light: Any, max_staleness: int, in_flight: str
) -> None:
    cfg = configuration(steps=20, stream={"max_staleness": max_staleness, "in_flight": in_flight})
    steps, updates = run(light, cfg, generate_s=0.05, update_s=0.03)
    trained = [position for update in positions(updates) for position in update]
    assert sorted(trained) == list(range(80))
    ages = Counter(number - version for number, update in enumerate(updates) for _, version in update)
    assert max(ages) == max_staleness
    assert min(ages) >= 0
    shares = [sum(s.metrics.get(f"staleness_{age}", 0.0) for s in steps) for age in range(max_staleness + 1)]
    assert [round(share * 4) for share in shares] == [ages[age] for age in range(max_staleness + 1)]
    assert all(step.metrics["seconds_draw_to_train_p99"] >= step.metrics["seconds_draw_to_train_p50"] for step in steps)
    assert all(step.metrics["dropped_stale"] == 0.0 for step in steps)


def test_learning_and_sampling_go_on_at_the_same_time(light: Any) -> None:
    """What a step takes out of the buffer was sampled while the steps before it learned."""
    cfg = configuration(steps=10, stream={"max_staleness": 1})
    steps, _ = run(light, cfg, generate_s=0.1, update_s=0.2)
    waited = [step.metrics["seconds_draw_to_train_p50"] for step in steps[2:]]
    assert min(waited) > 0.15, "asked for before the update of the step before was over"


@pytest.mark.parametrize(("max_staleness", "deterministic"), [(0, True), (0, False), (1, False)])
def test_what_a_generator_died_on_is_asked_again(light: Any, max_staleness: int, deterministic: bool) -> None:
    cfg = configuration(steps=10, stream={"max_staleness": max_staleness, "deterministic": deterministic})
    failing = frozenset({1, 9, 10, 22, 33})
    steps, updates = run(light, cfg, generate_s=0.03, update_s=0.05, failing=failing)
    trained = [position for update in positions(updates) for position in update]
    assert sorted(trained) == list(range(40))
    if deterministic:
        assert trained == sorted(trained)
    assert all(number - version <= max_staleness for number, update in enumerate(updates) for _, version in update)
    assert steps[-1].state.consumed.unfinished == ()


@pytest.mark.parametrize("deterministic", [True, False])
def test_what_fails_each_time_ends_the_run(light: Any, deterministic: bool) -> None:
    cfg = configuration(steps=3, stream={"deterministic": deterministic})
    with pytest.raises(RoleFailed, match="nobody can answer this"):
        run(light, cfg, hopeless=frozenset({5}))


def test_learners_that_cannot_be_reached_start_again_from_the_newest_checkpoint(
    session: SessionInfo, model_dir: Path, tmp_path: Path
) -> None:
    light: Any = ray.remote(Light).options(num_cpus=0, max_concurrency=1000, max_restarts=-1).remote()
    cfg = configuration(steps=8, checkpoint={"every_steps": 2}, policy={"path": str(model_dir)})
    fleet = light_fleet(light, cfg, Times(unreachable=frozenset({4 * 5})))  # an actor that starts again forgets it
    with fleet.watch:
        train(cfg, fleet, tmp_path, Start(RunRecord("ppo", {})))
    assert [row["step"] for row in read_metrics(tmp_path)] == list(range(8))
    assert positions(ray.get(light.updates.remote())) == [list(range(4 * n, 4 * n + 4)) for n in range(4, 8)]
    ray.kill(light)


def test_whole_groups_are_kept_with_their_prompts_and_scores(light: Any, model_dir: Path, tmp_path: Path) -> None:
    cfg = configuration(steps=2, rollouts_logged=5, policy={"path": str(model_dir)})
    fleet = light_fleet(light, cfg, Times())
    with fleet.watch:
        train(cfg, fleet, tmp_path, Start(RunRecord("ppo", {})))
    assert list(kept_steps(tmp_path)) == [0, 1]
    rows = read_step(kept_steps(tmp_path)[1]).to_pylist()
    assert [row["group_id"] for row in rows] == [4, 4, 5, 5]
    assert {row["messages"] for row in rows} == {ASKED}
    (reward,) = cfg.rewards
    assert [json.loads(row["components"]) for row in rows] == [{reward.name: row["score"]} for row in rows]
    for row in rows:
        assert len(row["tokens"]) == len(row["advantages"]) == len(row["ratios"]) == row["response_tokens"]
        assert row["versions"] == [{"version": 1, "start": 0, "end": row["response_tokens"]}]
        assert row["advantage"] == pytest.approx(np.mean(row["advantages"]))


def test_a_notice_saves_the_step_and_ends_the_run(light: Any, model_dir: Path, tmp_path: Path) -> None:
    cfg = configuration(steps=200, checkpoint={"every_steps": 1000}, policy={"path": str(model_dir)})
    fleet, record = light_fleet(light, cfg, Times(update_s=0.05)), RunRecord("ppo", {})

    def tell() -> None:
        while len(read_metrics(tmp_path)) < 3:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    before, telling = signal.getsignal(signal.SIGTERM), threading.Thread(target=tell)
    telling.start()
    with fleet.watch, pytest.raises(SystemExit) as ended:
        train(cfg, fleet, tmp_path, Start(record))
    telling.join()
    assert ended.value.code == 143
    assert 3 <= len(read_metrics(tmp_path)) == newest_step(tmp_path) < 200
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("stream", [{}, {"deterministic": False}, {"max_staleness": 1}])
def test_a_checkpoint_is_written_while_the_next_step_is_sampled(
    light: Any, model_dir: Path, tmp_path: Path, stream: dict[str, Any]
) -> None:
    saved = {"checkpoint": {"every_steps": 1, "keep": 9}, "policy": {"path": str(model_dir)}}
    cfg = configuration(steps=4, stream=stream, **saved)
    fleet = light_fleet(light, cfg, Times(generate_s=0.01, saves_meanwhile=2))
    with fleet.watch:
        train(cfg, fleet, tmp_path, Start(RunRecord("ppo", {})))
    written = [json.loads(file.read_text()) for file in sorted(tmp_path.glob("checkpoints/step-*/manifest.json"))]
    assert [(m["step"], m["policy_version"], m["finished"]) for m in written] == [(n, n, n == 4) for n in range(1, 5)]
    consumed = [m["driver"]["consumed"] for m in written]
    assert [c["next"] - len(c["unfinished"]) for c in consumed] == [4, 8, 12, 16], "of its step, not of the next one"


def test_a_checkpoint_that_fails_ends_the_run_a_step_later_and_leaves_nothing(
    light: Any, model_dir: Path, tmp_path: Path
) -> None:
    cfg = configuration(steps=9, checkpoint={"every_steps": 2}, policy={"path": str(model_dir)})
    fleet = light_fleet(light, cfg, Times(cannot_save=True))
    with fleet.watch, pytest.raises(RunFailed, match="no room left"):
        train(cfg, fleet, tmp_path, Start(RunRecord("ppo", {})))
    assert [row["step"] for row in read_metrics(tmp_path)] == [0, 1]
    assert list((tmp_path / "checkpoints").iterdir()) == []


@pytest.mark.parametrize("deterministic", [True, False])
def test_what_teaches_nothing_is_replaced_exactly(light: Any, deterministic: bool) -> None:
    cfg = configuration(
        steps=6, algorithm={"dynamic_sampling": {}}, stream={"deterministic": deterministic, "oversample": 1.5}
    )
    steps, updates = run(light, cfg, alike_every=3, unscored_every=5)
    trained = [position for update in positions(updates) for position in update]
    assert all(len(update) == 4 for update in updates)
    assert len(set(trained)) == len(trained)
    assert all(position % 3 and position % 5 != 4 for position in trained)
    left = sum(step.metrics[f"dropped_{why}"] for step in steps for why in ("filtered", "missing_score"))
    used_up = set(range(steps[-1].state.consumed.next)) - set(steps[-1].state.consumed.unfinished)
    assert used_up == set(trained) | {p for p in used_up if p % 3 == 0 or p % 5 == 4}, "none is lost"
    assert left <= len(used_up) - len(trained), "what is left out while the last step learns is in no metric"
    if deterministic:
        assert left == len(used_up) - len(trained)
        assert positions(run(light, cfg, alike_every=3, unscored_every=5)[1]) == positions(updates)


def test_where_nothing_can_be_learned_the_run_ends_and_says_so(light: Any) -> None:
    cfg = configuration(steps=2, algorithm={"dynamic_sampling": {}}, stream={"max_dropped": 2})
    with pytest.raises(
        RunError, match=r"12 groups were left out for one step of 4 \(filtered: 12\), more than stream.m"
    ):
        run(light, cfg, alike_every=1)
    with pytest.raises(RunError, match="no score for any of the step's first 4 prompts\nreward 'r' "):
        run(light, configuration(steps=2), unscored_every=1)


def test_random_kills_of_the_driver_train_every_group_once(light: Any) -> None:
    """tests/unit/rollout/test_ledger.py does the same for 200 steps on a simulated clock."""
    max_staleness = 2
    cfg = configuration(steps=60, algorithm={"dynamic_sampling": {}}, stream={"max_staleness": max_staleness})
    every, rng, trained, kills, done = 5, np.random.default_rng(3), [], 0, 0
    saved, fleet = DriverState.start(cfg), light_fleet(light, cfg, Times(generate_s=0.005, alike_every=4))
    with fleet.watch:
        while done < cfg.steps:
            fleet.push(done)  # a new driver brings the generators to its checkpoint's weights
            state, stream, dies_after = saved, Stream(fleet, cfg, saved, done), int(rng.integers(1, 15))
            before = len(ray.get(light.updates.remote())) - done
            for step in range(done, min(done + dies_after, cfg.steps)):
                state = ppo_step(fleet, stream, cfg, state).state
                assert len(state.consumed.unfinished) <= (max_staleness + 2) * 4, "no burst; a batch ahead is encoded"
                if (step + 1) % every == 0 or step + 1 == cfg.steps:
                    trained += ray.get(light.updates.remote())[before + done :]
                    saved, done = state, step + 1
            kills += 1
    assert kills > 5
    flat = [position for update in positions(trained) for position in update]
    assert len(flat) == len(set(flat)) == 240
    used_up = set(range(saved.consumed.next)) - set(saved.consumed.unfinished)
    assert used_up - set(flat) == {position for position in used_up if position % 4 == 0}
    assert all(0 <= number - version <= max_staleness for number, update in enumerate(trained) for _, version in update)


@pytest.mark.parametrize("stream", [{}, {"deterministic": False}, {"max_staleness": 1}])
def test_a_policy_is_evaluated_as_it_is_and_learns_as_if_it_were_not(light: Any, stream: dict[str, Any]) -> None:
    cfg = configuration(steps=4, stream=stream, eval_data={"path": "none"}, eval_every_steps=3)
    assert [done for done in range(1, 5) if cfg.evaluates_after(done)] == [3, 4]
    fleet, state = light_fleet(light, cfg, Times(generate_s=0.005)), DriverState.start(cfg)
    flow = Stream(fleet, cfg, state, 0)
    with fleet.watch:
        for done in range(1, 5):
            state = ppo_step(fleet, flow, cfg, state).state
            if cfg.evaluates_after(done):
                found = evaluate(fleet, flow, cfg)
                # Its responses to a prompt score 0 and 1 and so on; of each prompt here the first alone is asked for.
                assert found["eval_score"] == found["eval_reward_r"] == 0.0
                assert (found["eval_kl"], found["eval_response_tokens"]) == (
                    0.0,
                    np.mean([1 + n % 4 for n in range(HELD_OUT)]),
                )
    asked = [(f"held{n}", version) for version in (3, 4) for n in range(HELD_OUT)]
    assert sorted(ray.get(light.evaluated.remote())) == sorted(asked)
    trained = [position for update in positions(ray.get(light.updates.remote())) for position in update]
    assert sorted(trained) == list(range(16))


def test_without_a_use_for_a_reference_none_is_asked_and_no_kl_is_reported(light: Any) -> None:
    algorithm = {"kl_coef": 0.0}
    cfg = configuration(steps=2, algorithm=algorithm, eval_data={"path": "none"})
    fleet, state = light_fleet(light, cfg, Times()), DriverState.start(cfg)
    flow = Stream(fleet, cfg, state, 0)
    with fleet.watch:
        for _ in range(2):
            step = ppo_step(fleet, flow, cfg, state)
            state = step.state
            assert not {"kl", "seconds_reference", "idle_reference"} & step.metrics.keys()
            assert step.metrics["kl_coef"] == 0.0
            assert np.isnan(step.experience.response_kl).all()
        found = evaluate(fleet, flow, cfg)
    assert "eval_score" in found
    assert "eval_kl" not in found


def test_a_prompts_responses_count_as_one_in_an_evaluation(light: Any) -> None:
    cfg = configuration(steps=1, eval_data={"path": "none"}, eval_samples_per_prompt=2)
    fleet, state = light_fleet(light, cfg, Times(unscored_every=10)), DriverState.start(cfg)
    flow = Stream(fleet, cfg, state, 0)
    with fleet.watch:
        ppo_step(fleet, flow, cfg, state)
        found = evaluate(fleet, flow, cfg)
    assert found["eval_score"] == found["eval_score_low"] == found["eval_score_high"] == 0.5
    assert found["eval_missing_r"] == 0.1


@pytest.mark.parametrize("checkpoint", [{"every_steps": 2}, {"every_steps": 1000, "every_seconds": 1e-6}])
def test_a_step_counts_whatever_becomes_of_its_evaluation(
    light: Any, model_dir: Path, tmp_path: Path, checkpoint: dict[str, Any]
) -> None:
    cfg = configuration(
        steps=3,
        eval_data={"path": "none"},
        eval_every_steps=2,
        policy={"path": str(model_dir)},
        checkpoint=checkpoint,
        rewards=[{"name": "r", "kind": "model", "model": {"path": "none"}, "on_missing": "fail"}],
    )
    # Of the positions that it learns from none is without a score; of the held-out prompts the last is.
    fleet = light_fleet(light, cfg, Times(unscored_every=HELD_OUT))
    with fleet.watch, pytest.raises(RunError, match="no number for 1 of 150"):
        train(cfg, fleet, tmp_path, Start(RunRecord("ppo", {})))
    assert [row["step"] for row in read_metrics(tmp_path)] == [0, 1]
    assert newest_step(tmp_path) == 2


def test_who_is_silent_is_named(light: Any) -> None:
    cfg = configuration(steps=1, stream={"deterministic": False}, deadlines={"stage_s": 1.0})
    with pytest.raises(DeadlineExceeded, match=r"nothing came for 1 s from generator-0, generator-1; raise deadlines"):
        run(light, cfg, generate_s=30.0)
