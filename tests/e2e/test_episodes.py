"""Episodes with the real vLLM and DeepSpeed: an environment that shows pictures, sounds and clips between the turns."""

import json
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from mmrlhf_ray.demo.clips import DIRECTIONS, clip_webm
from mmrlhf_ray.demo.tones import tone_wav
from mmrlhf_ray.runtime.metrics import read_metrics
from tests.command import Here
from tests.e2e.conftest import learnt
from tests.e2e.support import Running, refused, start
from tests.unit.tiny import picture

PATIENCE_S = 600.0
ENVIRONMENT = "mmrlhf_ray.environments.process"
"""In the command line of a process that environments run in."""

pytestmark = pytest.mark.e2e

SHOWS = '''
import time
from pathlib import Path
from mmrlhf_ray.environments.protocol import Shown, Step

HERE = Path(__file__).parent
CLIPS = [("image", "image/png", "a.png"), ("audio", "audio/wav", "b.wav"), ("video", "video/webm", "c.webm")]


class Shows:
    """A clip after the first turn, words after the second; the third is the last, and long words are liked. The first
    episode of all fails, and is played again. Second turns wait while there is a file `hold`."""

    def reset(self, start):
        failed = HERE / "failed"
        if not failed.exists():
            failed.touch()
            raise RuntimeError("not today")
        self.seed, self.turn = start.seed, 0
        return ()

    def step(self, response):
        self.turn += 1
        while self.turn == 2 and (HERE / "hold").exists():
            (HERE / "held").touch()
            time.sleep(0.02)
        if self.turn == 3:
            return Step((), len(response) / 20, True)
        kind, mime, name = CLIPS[self.seed % 3]
        clip = Shown(kind, mime, (HERE / name).read_bytes())
        return Step((clip, "which digit ?") if self.turn == 1 else ("which tone ?",), 0.25, False)
'''


@pytest.fixture(scope="module")
def job(ppo_job: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    directory = tmp_path_factory.mktemp("shows")
    (directory / "shows.py").write_text(SHOWS)
    (directory / "a.png").write_bytes(picture(3))
    (directory / "b.wav").write_bytes(tone_wav(3, np.random.default_rng(0), 0.3))
    (directory / "c.webm").write_bytes(clip_webm(5, DIRECTIONS[0]))
    values: dict[str, Any] = yaml.safe_load(ppo_job.read_text())
    values["algorithm"] = {"prompts_per_step": 6, "n_samples_per_prompt": 2, "mini_batch_size": 12}
    values["rewards"].append({"name": "shows", "kind": "environment"})
    values["rewards"].append({"name": "turns", "kind": "function", "function": "turn_penalty"})
    values["sampling"] = {"max_response_tokens": 160}
    values["data"]["max_prompt_tokens"] = 64
    values["environment"] = {
        "kind": "python",
        "environment": f"{directory / 'shows.py'}:Shows",
        "max_turns": 3,
        "max_turn_tokens": 6,
        "long_turn": "is_closed",
        "max_observation_tokens": 60,
    }
    values["checkpoint"] = {"every_steps": 2}
    return values


def trained(here: Here, values: dict[str, Any], directory: Path, *more: str) -> list[dict[str, float]]:
    (directory / "job.yaml").write_text(yaml.safe_dump(values | {"output_dir": str(directory)}))
    finished = here("ppo", str(directory / "job.yaml"), *more, cwd=directory)
    assert finished.returncode == 0, finished.err
    return read_metrics(directory / "run")


@dataclass(frozen=True)
class Run:
    """A run that has ended."""

    directory: Path
    rows: list[dict[str, float]]
    """Its metrics."""


@pytest.fixture(scope="module")
def undisturbed(job: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Three steps with a critic, as a command of its own."""
    directory = tmp_path_factory.mktemp("undisturbed")
    finished = started(job | {"steps": 3}, directory).finish(PATIENCE_S)
    assert finished.returncode == 0, finished.err
    return Run(directory / "run", read_metrics(directory / "run"))


def started(values: dict[str, Any], directory: Path) -> Running:
    (directory / "job.yaml").write_text(yaml.safe_dump(values | {"output_dir": str(directory)}))
    return start("ppo", str(directory / "job.yaml"), cwd=directory)


def test_a_critic_learns_from_episodes_and_a_resumed_run_is_the_same(
    here: Here, job: dict[str, Any], undisturbed: Run, tmp_path: Path
) -> None:
    rows = undisturbed.rows
    trained(here, job | {"steps": 2}, tmp_path)
    again = trained(here, job | {"steps": 3}, tmp_path, "--resume")
    assert [learnt(row) for row in again] == [learnt(row) for row in rows]
    assert Path(job["environment"]["environment"].rpartition(":")[0]).with_name("failed").exists()
    assert rows[0]["mismatch_max"] < 1e-4, "at step 0 sampler and learner are one model, later turns included"
    assert all(row["value_loss"] > 0 and row["response_tokens"] <= 18 for row in rows)
    kept = pq.read_table(undisturbed.directory / "rollouts" / "step-000000.parquet").to_pylist()
    for row in kept:
        turns = json.loads(row["turns"])
        assert [turn["kind"] for turn in turns] == ["response", "observation", "response", "observation", "response"]
        (name,) = turns[1]["media_ids"]
        assert list((undisturbed.directory / "media").rglob(f"{name}.*")), "what was shown is kept"
        assert json.loads(row["components"])["shows"] == pytest.approx(0.5 + turns[4]["reward"])
    assert {kind for row in kept for kind in json.loads(row["turns"])[1]["shows"]} == {"image", "audio", "video"}


class Holding:
    """Keeps all episodes of a run in their second turn within the block."""

    def __init__(self, running: Running, environment: Path):
        self._running = running
        self._hold, self._held = (environment.with_name(name) for name in ("hold", "held"))

    def __enter__(self) -> None:
        self._held.unlink(missing_ok=True)
        self._hold.touch()
        self._running.wait_for(self._held.exists, PATIENCE_S)

    def __exit__(self, *_: object) -> None:
        self._hold.unlink()


def environments(running: Running) -> set[int]:
    return {pid for pid, command in running.processes().items() if ENVIRONMENT in command}


def kill_all(running: Running, roles: Sequence[str]) -> None:
    for role in roles:
        running.send(signal.SIGKILL, f"ray::{role}")


def test_roles_that_die_while_episodes_are_played_change_nothing(
    job: dict[str, Any], undisturbed: Run, tmp_path: Path
) -> None:
    running = started(job | {"steps": 3}, tmp_path)
    file = Path(job["environment"]["environment"].rpartition(":")[0])

    def wait_for(step: int) -> None:
        running.wait_for(lambda: any(row["step"] == step for row in read_metrics(tmp_path / "run")), PATIENCE_S)

    wait_for(0)
    with Holding(running, file):
        playing = environments(running)
        assert playing
        kill_all(running, ["Generator", "PromptEncoder", "RewardFunctions", "Reference"])
        running.wait_for(lambda: not playing & environments(running), PATIENCE_S)
    wait_for(1)
    with Holding(running, file):
        kill_all(running, ["Learner"])
    finished = running.finish(PATIENCE_S)
    assert finished.returncode == 0, finished.err
    for name in ("generator-0", "encoder-0", "functions-0", "reference-0"):
        assert f"{name} is back after" in finished.err, finished.err
    assert "all learners start again" in finished.err
    rows = read_metrics(tmp_path / "run")
    assert [learnt(row) for row in rows] == [learnt(row) for row in undisturbed.rows]


def test_an_episode_whose_process_is_killed_is_played_again(
    job: dict[str, Any], undisturbed: Run, tmp_path: Path
) -> None:
    running = started(job | {"steps": 1}, tmp_path)
    with Holding(running, Path(job["environment"]["environment"].rpartition(":")[0])):
        running.send(signal.SIGKILL, ENVIRONMENT)
    finished = running.finish(PATIENCE_S)
    assert finished.returncode == 0, finished.err
    (row,) = read_metrics(tmp_path / "run")
    before = learnt(undisturbed.rows[0])
    assert learnt(row) == pytest.approx(before, rel=1e-3, abs=1e-6), "batches of turns were others, tokens the same"


def test_a_group_learns_from_episodes_that_were_sampled_while_it_learned(
    here: Here, job: dict[str, Any], tmp_path: Path
) -> None:
    values = job | {"steps": 4, "stream": {"max_staleness": 1, "in_flight": "keep"}}
    values["placement"] = {k: v for k, v in job["placement"].items() if k != "critic"}
    del values["critic"]
    values["algorithm"] = job["algorithm"] | {
        "advantage_estimator": "grpo",
        "kl_in": "loss",
        "kl_estimator": "k3",
        "mismatch": {"correction": "tis"},
    }
    rows = trained(here, values, tmp_path)
    assert [row["step"] for row in rows] == [0, 1, 2, 3]
    assert rows[0]["mismatch_max"] < 1e-4
    assert max(row["staleness_max"] for row in rows) == 1.0
    versions = {
        span["version"]
        for file in (tmp_path / "run" / "rollouts").glob("*.parquet")
        for row in pq.read_table(file).to_pylist()
        for span in row["versions"]
    }
    assert len(versions) > 2


def test_an_environment_that_cannot_work_is_refused(here: Here, job: dict[str, Any], tmp_path: Path) -> None:
    values = job | {"environment": {**job["environment"], "environment": "nowhere.py:Shows"}}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(values))
    refused(here("ppo", str(tmp_path / "job.yaml"), cwd=tmp_path), "environment", "nowhere.py")
