"""Environments of others, unchanged, with the real vLLM and DeepSpeed: one of Gymnasium, one of OpenEnv's protocol."""

import json
from pathlib import Path
from typing import Any

import gymnasium
import pyarrow.parquet as pq
import pytest
import yaml

from mmrlhf_ray.runtime.metrics import read_metrics
from tests.command import Here
from tests.unit.environments.support import served

pytestmark = pytest.mark.e2e

STEPS = 3
Rows = list[dict[str, Any]]


@pytest.fixture
def job(ppo_job: Path) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load(ppo_job.read_text())
    values |= {"steps": STEPS, "sampling": {"max_response_tokens": 96}}
    values["algorithm"] = {"prompts_per_step": 4, "n_samples_per_prompt": 4, "mini_batch_size": 16}
    values["rewards"] = [{"name": "game", "kind": "environment"}]
    del values["placement"]["scorer"]
    return values


def trained(here: Here, values: dict[str, Any], directory: Path) -> tuple[list[dict[str, float]], Rows]:
    """Metrics of the run, and the responses that it kept."""
    (directory / "job.yaml").write_text(yaml.safe_dump(values | {"output_dir": str(directory)}))
    finished = here("ppo", str(directory / "job.yaml"), cwd=directory)
    assert finished.returncode == 0, finished.err
    kept = [row for n in range(STEPS) for row in pq.read_table(_kept(directory, n)).to_pylist()]
    return read_metrics(directory / "run"), kept


def _kept(directory: Path, step: int) -> Path:
    return directory / "run" / "rollouts" / f"step-{step:06d}.parquet"


def rewards_of(row: dict[str, Any]) -> list[float]:
    return [turn["reward"] for turn in json.loads(row["turns"]) if turn["kind"] == "response"]


def test_grpo_learns_from_what_gymnasium_rewards_at_each_turn(here: Here, job: dict[str, Any], tmp_path: Path) -> None:
    taxi = gymnasium.make("Taxi-v3").unwrapped
    words = ["image", "tone", "answer", "even", "odd", "digit"]
    job["rewards"] = [{"name": "game", "kind": "environment", "per_turn": True, "normalise": "group"}]
    job["environment"] = {
        "kind": "gymnasium",
        "id": "Taxi-v3",
        "actions": {word: action for action, word in enumerate(words)},
        "show": "text",
        "max_turns": 3,
        "max_turn_tokens": 6,
        "long_turn": "is_closed",
        "max_observation_tokens": 24,
    }
    job["algorithm"] |= {"advantage_estimator": "grpo", "kl_coef": 0.0}
    job["placement"] = {k: v for k, v in job["placement"].items() if k not in ("critic", "reference")}
    del job["critic"]
    rows, kept = trained(here, job, tmp_path)
    assert [row["step"] for row in rows] == list(range(STEPS))
    assert rows[0]["mismatch_max"] < 1e-4
    given = [rewards_of(row) for row in kept]
    own = {float(reward) for moves in taxi.P.values() for chances in moves.values() for _, _, reward, _ in chances}
    assert {reward for episode in given for reward in episode} <= {0.0, *own}, "0 is for a turn without an action"
    assert len({sum(episode) for episode in given}) > 1
    assert all(json.loads(row["components"])["game"] == pytest.approx(sum(rewards_of(row))) for row in kept)
    assert any(row["grad_norm"] > 0 for row in rows)
    learned = [[a for a, on in zip(row["advantages"], row["response_mask"], strict=True) if on] for row in kept]
    assert any(len(set(episode)) > 1 for episode in learned), "turns have advantages of their own"


def test_ppo_learns_from_a_server_of_the_fields_protocol(here: Here, job: dict[str, Any], tmp_path: Path) -> None:
    job["rewards"] = [{"name": "game", "kind": "environment", "per_turn": True}]
    with served() as port:
        job["environment"] = {
            "kind": "http",
            "url": f"ws://127.0.0.1:{port}/ws",
            "arguments": {"from": 1},
            "max_turns": 3,
            "max_turn_tokens": 6,
            "long_turn": "is_closed",
            "max_observation_tokens": 60,
        }
        rows, kept = trained(here, job, tmp_path)
    assert [row["step"] for row in rows] == list(range(STEPS))
    assert rows[0]["mismatch_max"] < 1e-4
    assert all(row["value_loss"] > 0 for row in rows)
    for row in kept:
        assert rewards_of(row) == [0.5, 0.5], "from 1 it counts to 3 in two steps"
        first, second = (turn for turn in json.loads(row["turns"]) if turn["kind"] == "response")
        assert first["text"] != "down" != second["text"]
    shown = {tuple(turn["shows"]) for row in kept for turn in json.loads(row["turns"]) if turn["kind"] == "observation"}
    assert shown == {("image",)}
