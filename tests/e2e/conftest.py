"""A small PPO job, and one run of it through job submission that several tests look at."""

import hashlib
import json
import re
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml

from mmrlhf_ray.config import DataConfig
from mmrlhf_ray.data.records.readers import read_records, write_records
from mmrlhf_ray.runtime.session import SessionInfo
from mmrlhf_ray.schema import MEDIA, PROMPT
from tests.cluster import Cluster, local_cluster
from tests.command import Finished, Here, in_process
from tests.e2e.support import start
from tests.shared_ray import nothing_is_left, session

__all__ = ["nothing_is_left", "session"]

STEPS = 5
_DEADLINE_S = 900.0


@dataclass(frozen=True)
class Submitted:
    """A PPO job that ran on a cluster to its end, and what was seen of it from outside meanwhile."""

    run_dir: Path
    finished: Finished
    actors: dict[str, str]
    """Name → class, from the state API."""
    gauges: dict[str, float]
    """From the node's metrics endpoint."""


def _with_bad_rows(source: Path, target: Path) -> None:
    """The prompts of `source` and two that cannot be used: one shows half a picture, one is too long."""
    read = read_records(DataConfig(path=str(source)), PROMPT, target)
    rows, media = read.records.to_pylist(), read.media.to_pylist()
    picture = next(row for row in rows if row["modality"] == "image" and len(row["media_ids"]) == 1)
    whole = next(m for m in media if m["media_id"] == picture["media_ids"][0])
    data = whole["data"][: len(whole["data"]) // 2]
    half = whole | {"data": data, "media_id": hashlib.sha256(data).hexdigest()}
    long = [{"role": "user", "content": [{"type": "text", "text": "is 3 even or odd ? " * 20}]}]
    rows.append(picture | {"prompt_id": "half-a-picture", "media_ids": [half["media_id"]]})
    rows.append(next(r for r in rows if r["modality"] == "text") | {"prompt_id": "long", "messages": json.dumps(long)})
    write_records(target, pa.Table.from_pylist(rows, PROMPT), pa.Table.from_pylist([*media, half], MEDIA))


@pytest.fixture
def here(session: SessionInfo, capfd: pytest.CaptureFixture[str]) -> Here:
    """`here("ppo", "job.yaml", cwd=directory)`: the command in this process, on the Ray that tests share."""
    return partial(in_process, capfd)


@pytest.fixture(scope="session")
def ppo_job(model_dir: Path, reward_model_dir: Path, data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """job.yaml of a PPO run of 5 steps on prompts of all modalities, two of them bad, in a directory of its own."""
    directory = tmp_path_factory.mktemp("job")
    _with_bad_rows(data_dir / "prompts_train", directory / "prompts")
    small, pair = {"num_cpus": 0.2}, {"num_cpus": 0.2, "replicas": 2}
    learner = {"engine": {"zero_stage": 2}, "optimizer": {"lr": 2e-4}}
    job: dict[str, Any] = {
        "job": "ppo",
        "name": "run",
        "output_dir": str(directory / "runs"),
        "device": "cpu",
        "steps": STEPS,
        "policy": {"path": str(model_dir)},
        "rewards": [{"name": "reward_model", "kind": "model", "model": {"path": str(reward_model_dir)}}],
        "data": {
            "path": str(directory / "prompts"),
            "facts_column": "facts",
            "max_prompt_tokens": 64,
            "on_bad_row": "quarantine",
        },
        "sampling": {"max_response_tokens": 8},
        "algorithm": {"kl_target": 0.5, "kl_horizon": 100, "prompts_per_step": 13, "n_samples_per_prompt": 2,
                      "mini_batch_size": 26},
        "learner": learner,
        "critic": learner,
        "generator": {"max_num_seqs": 32},
        "placement": {
            **dict.fromkeys(("generator", "scorer", "functions", "reference", "encoder"), small),
            "policy": pair,
            "critic": {"num_cpus": 0.2, "replicas": 1},
        },
        "checkpoint": {"every_steps": 2},
        "deadlines": {"placement_s": 60, "start_s": 600, "stage_s": 300},
    }  # fmt: skip
    (directory / "job.yaml").write_text(yaml.safe_dump(job))
    return directory / "job.yaml"


@pytest.fixture(scope="session")
def submitted(ppo_job: Path) -> Submitted:
    """The job on a cluster with token authentication, watched until it ends."""
    with local_cluster({"RAY_metrics_report_interval_ms": "5000"}) as cluster:
        running = start(
            *("submit", ppo_job.name, "--address", cluster.url),
            cwd=ppo_job.parent,
            env={"RAY_AUTH_TOKEN_PATH": str(cluster.token_file)},
        )
        actors: dict[str, str] = {}
        gauges: dict[str, float] = {}
        until = time.monotonic() + _DEADLINE_S
        while running.process.poll() is None and time.monotonic() < until:
            actors |= _alive_actors(cluster)
            gauges |= _gauges(cluster)
            time.sleep(3.0)
        return Submitted(ppo_job.parent / "runs" / "run", running.finish(10.0), actors, gauges)


def _alive_actors(cluster: Cluster) -> dict[str, str]:
    request = urllib.request.Request(
        f"{cluster.url}/api/v0/actors?filter_keys=state&filter_predicates=%3D&filter_values=ALIVE&detail=1",
        headers={"Authorization": f"Bearer {cluster.token_file.read_text()}"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        listed = json.load(answer)["data"]["result"]["result"]
    return {actor["name"]: actor["class_name"] for actor in listed if actor["name"]}


def _gauges(cluster: Cluster) -> dict[str, float]:
    """What Prometheus would scrape from the addresses that Ray publishes for it."""
    discovery = cluster.directory / "prom_metrics_service_discovery.json"
    targets = [t for entry in json.loads(discovery.read_text()) for t in entry["targets"]] if discovery.exists() else []
    found: dict[str, float] = {}
    for target in targets:
        try:
            with urllib.request.urlopen(f"http://{target}/metrics", timeout=30) as answer:
                text = answer.read().decode()
        except urllib.error.URLError:  # Ray publishes the address before its agent listens; it is asked again
            continue
        found |= {k: float(v) for k, v in re.findall(r"^ray_(mmrlhf_\w+)\{.*\} (\S+)$", text, flags=re.MULTILINE)}
    return found


def learnt(row: dict[str, float]) -> dict[str, float]:
    """What depends neither on the time of day nor on what caches held: a new encoder calls the processor again."""
    of_time = ("seconds_", "idle_", "tokens_per_second_")
    left_out = ("time", "processor_calls")
    return {name: value for name, value in row.items() if name not in left_out and not name.startswith(of_time)}
