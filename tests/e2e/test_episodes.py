"""Episodes with the real vLLM and DeepSpeed: an environment that shows pictures, sounds and clips between the turns."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from mmrlhf_ray.demo.clips import DIRECTIONS, clip_webm
from mmrlhf_ray.demo.tones import tone_wav
from mmrlhf_ray.runtime.metrics import read_metrics
from tests.e2e.conftest import learnt
from tests.e2e.support import Here, refused
from tests.unit.tiny import picture

pytestmark = pytest.mark.e2e

SHOWS = '''
from pathlib import Path
from mmrlhf_ray.environments.protocol import Shown, Step

HERE = Path(__file__).parent
CLIPS = [("image", "image/png", "a.png"), ("audio", "audio/wav", "b.wav"), ("video", "video/webm", "c.webm")]


class Shows:
    """A clip after the first turn, words after the second; the third is the last, and long words are liked. The first
    episode of all fails, and is played again."""

    def reset(self, start):
        failed = HERE / "failed"
        if not failed.exists():
            failed.touch()
            raise RuntimeError("not today")
        self.seed, self.turn = start.seed, 0
        return ()

    def step(self, response):
        self.turn += 1
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


def test_a_critic_learns_from_episodes_and_a_resumed_run_is_the_same(
    here: Here, job: dict[str, Any], tmp_path: Path
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    rows = trained(here, job | {"steps": 3}, whole)
    trained(here, job | {"steps": 2}, parts)
    again = trained(here, job | {"steps": 3}, parts, "--resume")
    assert [learnt(row) for row in again] == [learnt(row) for row in rows]
    assert Path(job["environment"]["environment"].rpartition(":")[0]).with_name("failed").exists()
    assert rows[0]["mismatch_max"] < 1e-4, "at step 0 sampler and learner are one model, later turns included"
    assert all(row["value_loss"] > 0 and row["response_tokens"] <= 18 for row in rows)
    kept = pq.read_table(whole / "run" / "rollouts" / "step-000000.parquet").to_pylist()
    for row in kept:
        turns = json.loads(row["turns"])
        assert [turn["kind"] for turn in turns] == ["response", "observation", "response", "observation", "response"]
        (name,) = turns[1]["media_ids"]
        assert list((whole / "run" / "media").rglob(f"{name}.*")), "what was shown is kept"
        assert json.loads(row["components"])["shows"] == pytest.approx(0.5 + turns[4]["reward"])
    assert {kind for row in kept for kind in json.loads(row["turns"])[1]["shows"]} == {"image", "audio", "video"}


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
