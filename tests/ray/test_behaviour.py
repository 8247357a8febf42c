"""Jobs of behaviour as small as they can be: votes teach, costs hold, a killed run loses and repeats no vote."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from mmrlhf_ray.behaviour.ledger import LEDGER_DIR, Ledger
from mmrlhf_ray.behaviour.module import best_action
from mmrlhf_ray.behaviour.saved import load_policy
from mmrlhf_ray.config import save_config
from mmrlhf_ray.discrete.files import MODULE_DIR, WEIGHTS_FILE
from mmrlhf_ray.errors import ConfigError
from mmrlhf_ray.pipelines.behaviour import job as behaviour
from mmrlhf_ray.pipelines.behaviour.report import REPORT_FILE, SUMMARY_FILE
from mmrlhf_ray.runtime.metrics import read_metrics
from tests.e2e import support
from tests.e2e.support import mmrlhf
from tests.unit import behaviour_tiny as tiny
from tests.unit.behaviour_tiny import GOAL, job

pytestmark = pytest.mark.usefixtures("session")
DQN = {"kind": "dqn", "batch_size": 64, "learning_starts": 200, "updates_per_decision": 0.25, "lr": 0.005}
EPSILON = {"epsilon": {"start": 1.0, "end": 0.05, "decisions": 1500}, "target_every": 200, "gamma": 0.9}


def _summary(run_dir: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run_dir / SUMMARY_FILE).read_text())
    return found


@pytest.mark.parametrize("algorithm", ["ppo", "dqn"])
def test_simulated_votes_teach_what_the_reward_says(algorithm: str, tmp_path: Path) -> None:
    keys = {"algorithm": DQN | EPSILON} if algorithm == "dqn" else {}
    ask = {"pairs": 150, "first": 100}
    run_dir = behaviour.run(job(tmp_path, steps=8, ask=ask, annotators={"kind": "simulated", "wrong": 0.05}, **keys))
    found = _summary(run_dir)
    assert found["true_return"]["after"]["estimate"] > 0.85 * found["true_return"]["before"]["estimate"]
    assert found["votes"] == 150
    rows = read_metrics(run_dir)
    assert [row["votes"] for row in rows] == sorted(row["votes"] for row in rows)
    assert rows[0]["votes"] == 100
    page = (run_dir / REPORT_FILE).read_text()
    assert page.count("data:video/webm") >= 3
    _, module = load_policy(run_dir / MODULE_DIR)
    space = module.observation_space
    assert space is not None
    assert best_action(module, space.sample()) in (0, 1, 2)


def test_a_script_teaches_what_no_reward_says(tmp_path: Path) -> None:
    script = {"kind": "script", "judge": f"{tiny.__file__}:judge"}
    measure = {"episodes": 4, "worst": 0, "measure": f"{tiny.__file__}:measure"}
    run_dir = behaviour.run(job(tmp_path, steps=8, annotators=script, evaluation=measure))
    found = _summary(run_dir)
    assert found["measures"]["last place"]["after"]["estimate"] < -0.5 < GOAL
    assert found["preferred"]["estimate"] > 0.5


def test_the_environments_own_reward_is_learned_for_comparison(tmp_path: Path) -> None:
    run_dir = behaviour.run(job(tmp_path, learn_from="environment", steps=6))
    found = _summary(run_dir)
    assert found["true_return"]["after"]["estimate"] > found["true_return"]["before"]["estimate"]
    assert found["votes"] == 0
    assert not (run_dir / LEDGER_DIR).exists()


def test_a_multiplier_grows_until_the_cost_is_down(tmp_path: Path) -> None:
    cost = {"of": "moved", "bound": 0.05, "multiplier_lr": 5.0, "initial_multiplier": 0.0}
    rows = read_metrics(behaviour.run(job(tmp_path, steps=8, cost=cost)))
    assert rows[0]["multiplier"] == 0.0
    assert rows[1]["multiplier"] == pytest.approx(5.0 * (rows[0]["cost"] - 0.05))
    assert rows[-1]["cost"] < rows[0]["cost"] / 2


def test_runners_apart_record_as_the_driver_does(tmp_path: Path) -> None:
    spread = {"replicas": 2, "envs": 2, "num_cpus": 0.5}
    run_dir = behaviour.run(job(tmp_path, steps=2, env_runners=spread))
    assert read_metrics(run_dir)[-1]["votes"] == 60


def test_equal_seeds_are_equal_runs(tmp_path: Path) -> None:
    one, other = (behaviour.run(job(tmp_path, name=name, steps=2)) for name in ("one", "other"))
    mine, its = (load_file(run / MODULE_DIR / WEIGHTS_FILE) for run in (one, other))
    assert all((mine[name] == its[name]).all() for name in mine)
    assert list(Ledger(one).votes) == list(Ledger(other).votes)


def test_what_is_wrong_is_said_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="environment.id=Nowhere-v0"):
        behaviour.run(job(tmp_path, environment={"id": "Nowhere-v0"}))
    with pytest.raises(ConfigError, match="evaluation.measure=.*judge"):
        behaviour.run(job(tmp_path, evaluation={"measure": f"{tiny.__file__}:judge"}))
    assert not (tmp_path / "line").exists()


def test_killed_and_resumed_no_vote_is_lost_or_used_twice(tmp_path: Path) -> None:
    cfg = job(tmp_path, steps=12, checkpoint={"every_steps": 2})
    save_config(cfg, tmp_path / "job.yaml")
    killed = support.start("behaviour", str(tmp_path / "job.yaml"), cwd=Path.cwd())
    votes = cfg.run_dir / LEDGER_DIR / "votes.jsonl"
    until = time.monotonic() + 240
    while not (cfg.run_dir / "checkpoints" / "step-00000004").is_dir():
        assert killed.process.poll() is None, killed.process.communicate()
        assert time.monotonic() < until
        time.sleep(0.01)
    os.kill(killed.process.pid, signal.SIGKILL)
    killed.process.communicate()
    killed.assert_nothing_left()
    assert not (cfg.run_dir / MODULE_DIR).exists()
    before = [json.loads(line)["vote_id"] for line in votes.read_text().splitlines() if line.endswith("}")]
    resumed = mmrlhf("behaviour", str(tmp_path / "job.yaml"), "--resume", cwd=Path.cwd(), timeout_s=600)
    assert resumed.returncode == 0, resumed.err
    after = [json.loads(line)["vote_id"] for line in votes.read_text().splitlines()]
    assert after[: len(before)] == before
    assert len(after) == len(set(after)) == 60
    rows = read_metrics(cfg.run_dir)
    assert [row["step"] for row in rows] == list(range(12))
    assert rows[-1]["votes"] == 60
