"""The environment: gymnasium's checker, rewards by hand, requests, missing modalities, seeds."""

import warnings
from typing import Any

import numpy as np
import pytest
from gymnasium import logger
from gymnasium.utils.env_checker import check_env

from mmrlhf_ray.config import DiscreteConfig
from mmrlhf_ray.discrete.env import DecisionEnv, SeededOnce, TaskCases
from tests.unit.discrete_tiny import IMAGE, NOWHERE, TEXT, job, made_up

TWO = {
    "colour": {"kind": "decide", "classes": ["red", "green", "blue"], **NOWHERE},
    "shade": {"kind": "decide", "classes": ["dark", "light"], "weight": 3.0, **NOWHERE},
}
SEQUENTIAL = {"first": "image", "cost": 0.25}


def env_of(cfg: DiscreteConfig, **keys: Any) -> DecisionEnv:
    tasks = []
    for name in cfg.tasks:
        cases = made_up(cfg, task=name)
        tasks.append(TaskCases(cases, 2.0 * cases.scores - 1.0, cfg.tasks[name].weight))
    return DecisionEnv(cfg, tasks, **keys)


@pytest.mark.parametrize("keys", [{}, {"tasks": TWO}, {"sequential": SEQUENTIAL}], ids=["one", "tasks", "sequential"])
def test_gymnasiums_checker_finds_nothing(keys, monkeypatch):
    monkeypatch.setattr(logger, "min_level", logger.WARN)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env_of(job(**keys)), skip_render_check=True)


def test_the_checker_is_heard(monkeypatch):
    """Otherwise the test above would see nothing."""
    monkeypatch.setattr(logger, "min_level", logger.WARN)
    env = env_of(job())
    env.observation_space["present"].low[:] = -np.inf
    with pytest.warns(UserWarning, match="infinity"):
        check_env(env, skip_render_check=True)


def test_a_decision_earns_its_entry_in_the_table_and_ends_the_episode():
    env = env_of(job())
    for row in range(6):
        for action in range(3):
            seen, _ = env.reset(options={"row": row})
            np.testing.assert_array_equal(seen["image"], made_up(job()).observations([row])["image"][0])
            _, reward, terminated, truncated, info = env.step(np.int64(action))
            right = action == row % 3
            assert (reward, terminated, truncated) == (1.0 if right else -1.0, True, False)
            assert info == {"score": float(right), "cost": 0.0, "task": 0, "row": row, "asked": 0}


def test_a_cost_is_weighed_by_the_multiplier_that_is_set():
    """Class 0 does harm in every row: (1 − 3·1) / 4 where it is right, (−1 − 3·1) / 4 where not."""
    cfg = job()
    cases = made_up(cfg)
    env = DecisionEnv(cfg, [TaskCases(cases, 2.0 * cases.scores - 1.0, costs=np.eye(3, dtype=np.float32)[[0] * 6])])
    for multiplier, row, action, expected in [
        (0.0, 0, 0, 1.0),
        (3.0, 0, 0, -0.5),
        (3.0, 1, 0, -1.0),
        (3.0, 1, 1, 0.25),
    ]:
        env.multiplier = multiplier
        env.reset(options={"row": row})
        _, reward, _, _, info = env.step(np.int64(action))
        assert (reward, info["cost"]) == (expected, float(action == 0))


def test_tasks_are_drawn_by_weight_and_unknown_actions_earn_the_worst():
    env = env_of(job(tasks=TWO))
    env.reset(seed=0)
    drawn = [env.reset()[0]["task"].argmax() for _ in range(2000)]
    assert abs(np.mean(drawn) - 0.75) < 0.03
    env.reset(options={"task": 1, "row": 0})
    assert env.step(2)[1:3] == (-1.0, True)


def test_every_row_is_drawn():
    env = env_of(job())
    env.reset(seed=0)
    rows = []
    for _ in range(200):
        env.reset()
        rows.append(env.step(0)[4]["row"])
    assert set(rows) == set(range(6))


def test_asking_costs_and_shows_what_the_record_has():
    env = env_of(job(sequential=SEQUENTIAL))
    seen, _ = env.reset(options={"row": 1})
    np.testing.assert_array_equal(seen["present"], [1, 0])
    assert not seen["said"].any()
    seen, reward, terminated, truncated, _ = env.step(3 + 1)
    assert (reward, terminated, truncated) == (-0.25, False, False)
    np.testing.assert_array_equal(seen["present"], [1, 1])
    assert seen["said"].all()
    _, reward, terminated, _, info = env.step(1)
    assert (reward, terminated, info["asked"]) == (1.0, True, 1)


def test_asking_for_what_is_not_there_costs_and_shows_nothing_and_ends():
    env = env_of(job(sequential=SEQUENTIAL))
    env.reset(options={"row": 0})
    ends = []
    for _ in range(3):
        seen, reward, terminated, truncated, _ = env.step(4)
        np.testing.assert_array_equal(seen["present"], [1, 0])
        assert (reward, terminated) == (-0.25, False)
        ends.append(truncated)
    assert ends == [False, False, True]


def test_asking_does_not_bring_back_what_was_dropped():
    cfg = job(observation={"modalities": {"image": IMAGE, "said": TEXT}, "drop": 0.5}, sequential=SEQUENTIAL)
    env = env_of(cfg)
    env.reset(seed=0)
    brought = []
    for _ in range(300):
        env.reset(options={"row": 1})
        brought.append(env.step(4)[0]["present"][1])
    # Dropped with 0.5, and back where the other is dropped too.
    assert abs(np.mean(brought) - 0.625) < 0.08


def test_modalities_are_dropped_in_training_only_and_one_always_stays():
    cfg = job(observation={"modalities": {"image": IMAGE, "said": TEXT}, "drop": 0.4})
    env = env_of(cfg)
    env.reset(seed=0)
    present = np.array([env.reset(options={"row": 1})[0]["present"] for _ in range(3000)])
    assert present.any(axis=1).all()
    # One is dropped with 0.4; where both are (0.16), either of them comes back.
    np.testing.assert_allclose(present.mean(axis=0), 0.6 + 0.08, atol=0.03)
    alone = [env.reset(options={"row": 0})[0]["present"] for _ in range(50)]
    np.testing.assert_array_equal(alone, [[1, 0]] * 50)
    whole = env_of(cfg, training=False)
    assert all(whole.reset(options={"row": 1})[0]["present"].all() for _ in range(50))


def test_a_seed_reproduces_the_cases():
    first, second, other = env_of(job()), env_of(job()), env_of(job())
    rows: list[list[int]] = []
    for env, seed in ((first, 3), (second, 3), (other, 4)):
        env.reset(seed=seed)
        rows.append([])
        for _ in range(30):
            env.reset()
            rows[-1].append(env.step(0)[4]["row"])
    assert rows[0] == rows[1] != rows[2]


def test_tasks_in_another_order_are_refused():
    cfg = job(tasks=TWO)
    tasks = [TaskCases(made_up(cfg, task=name), made_up(cfg, task=name).scores) for name in ("shade", "colour")]
    with pytest.raises(ValueError, match="in this order"):
        DecisionEnv(cfg, tasks)


def test_a_second_seed_draws_no_case_again():
    bare, once = env_of(job()), SeededOnce(env_of(job()))

    def rows(env, *seeds):
        found = []
        for seed in seeds:
            env.reset(seed=seed)
            found.append(env.step(0)[4]["row"])
        return found

    assert rows(bare, *[3] * 12) == rows(bare, 3) * 12
    assert rows(once, *[3] * 12) == rows(bare, 3, *[None] * 11)
    assert len(set(rows(once, *[3] * 12))) > 1
