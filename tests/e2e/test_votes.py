"""From a run's rollouts to a reward model: they are added to the queue, voted on over HTTP, derived and trained on."""

import json
import re
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
import yaml

from mmrlhf_ray.config import DataConfig
from mmrlhf_ray.data.records.readers import read_records
from mmrlhf_ray.runtime.metrics import read_metrics
from mmrlhf_ray.schema import PREFERENCE
from tests.command import Here
from tests.e2e.conftest import Submitted
from tests.e2e.feedback_support import first_token, running

pytestmark = pytest.mark.e2e

PEOPLE = ("Ann", "Ben")


def vote(http: httpx.Client, name: str) -> int:
    """Somebody who likes the longer of two responses votes until nothing is left; how many votes that were."""
    made = http.post("/api/annotators", json={"name": name})
    assert made.status_code == 201, made.text
    bearer = {"Authorization": f"Bearer {made.json()['token']}"}
    votes = 0
    while (leased := http.post("/api/lease", headers=bearer)).status_code == 200:
        item = leased.json()
        assert all(http.get(medium["url"], headers=bearer).status_code == 200 for medium in item["media"])
        left, right = (len(text) for text in item["responses"])
        choice = "tie" if left == right else ("left", "right")[right > left]
        body = {"vote_id": str(uuid4()), "item_id": item["item_id"], "answer": {"choice": choice}}
        assert http.post("/api/votes", json=body, headers=bearer).status_code == 201
        votes += 1
    return votes


def test_votes_on_a_runs_rollouts_train_a_reward_model(
    submitted: Submitted, model_dir: Path, here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert submitted.finished.returncode == 0, submitted.finished.err
    settings = [f"data_dir={tmp_path / 'feedback'}", "overlap=2"]
    with running(settings, tmp_path / "server.log") as server:
        token = first_token(server)
        monkeypatch.setenv("MMRLHF_FEEDBACK_TOKEN", token)
        added = here("feedback", "add", str(submitted.run_dir), "--url", server.url, cwd=tmp_path)
        assert added.returncode == 0, added.err
        (items,) = re.findall(r"^(\d+) items added", added.out, re.M)
        with httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {token}"}, timeout=60) as http:
            assert [vote(http, name) for name in PEOPLE] == [int(items)] * len(PEOPLE)
        votes = tmp_path / "votes" / "votes.parquet"
        exported = here("feedback", "export", str(votes), "--set", settings[0], cwd=tmp_path)
        assert exported.returncode == 0, exported.err
    derived = here("feedback", "derive", str(votes), str(tmp_path / "preferences"), cwd=tmp_path)
    assert derived.returncode == 0, derived.err

    read = read_records(DataConfig(path=str(tmp_path / "preferences")), PREFERENCE, tmp_path)
    rows = read.records.to_pylist()
    assert len(rows) >= 4, "most of the responses to a prompt differ in length"
    assert all(len(row["chosen"]) > len(row["rejected"]) for row in rows)
    assert {json.loads(row["extras"])["annotated"]["for"] for row in rows} == {len(PEOPLE)}
    assert {"image", "audio"} <= {row["modality"] for row in rows}

    job = {
        "job": "reward-model", "name": "reward", "output_dir": str(tmp_path / "runs"), "device": "cpu", "epochs": 2,
        "batch_size": 4, "model": {"path": str(model_dir)},
        "data": {"path": str(tmp_path / "preferences"), "facts_column": "facts", "max_prompt_tokens": 64},
        "learner": {"engine": {"zero_stage": 1}, "optimizer": {"lr": 1e-3}},
        "workers": {"replicas": 1, "num_cpus": 0.2},
    }  # fmt: skip
    (tmp_path / "reward.yaml").write_text(yaml.safe_dump(job))
    trained = here("reward-model", "reward.yaml", cwd=tmp_path)
    assert trained.returncode == 0, trained.err
    metrics = read_metrics(tmp_path / "runs" / "reward")
    assert metrics[-1]["loss"] > 0
    assert (tmp_path / "runs" / "reward" / "model" / "scalar_head.safetensors").is_file()
