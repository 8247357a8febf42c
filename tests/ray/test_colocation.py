"""Roles that share devices, on a Ray that believes in eight GPUs: the same device, one phase after the other, and after
each sleep the sampler is what the learner is."""

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import ray

from mmrlhf_ray.config import PPOConfig
from mmrlhf_ray.data.records.readers import read_records
from mmrlhf_ray.pipelines.ppo.job import train
from mmrlhf_ray.pipelines.resume import begin, run_record
from mmrlhf_ray.runtime.actors import ActorGroup
from mmrlhf_ray.runtime.devices import AT_WORK, Phase
from mmrlhf_ray.runtime.metrics import read_metrics
from mmrlhf_ray.runtime.session import WORKER_ENV
from mmrlhf_ray.runtime.waits import deadline_get
from mmrlhf_ray.schema import PROMPT
from mmrlhf_ray.workers.fleet import launch
from tests.ray.support import ANSWER_S

STEPS = 2
SHARING = ("generator", "policy", "reference")
WITHIN = 1e-4
Change = tuple[Phase, str, int]


@pytest.fixture(scope="module")
def gpus() -> Iterator[None]:
    """A Ray of eight GPUs that are not there."""
    ray.init(
        address="local",
        num_cpus=2,
        num_gpus=8,
        include_dashboard=False,
        logging_level=logging.ERROR,
        runtime_env={"env_vars": dict(WORKER_ENV)},
    )
    try:
        yield
    finally:
        ray.shutdown()


@pytest.fixture
def cfg(model_dir: Path, data_dir: Path) -> PPOConfig:
    shared, small = {"num_gpus": 1.0, "num_cpus": 0.1, "replicas": 2}, {"num_cpus": 0.1}
    return PPOConfig.model_validate(
        {
            "name": "colocation",
            "device": "cpu",
            "steps": STEPS,
            "policy": {"path": str(model_dir)},
            "rewards": [{"name": "length", "kind": "function", "function": f"{__file__}:longer"}],
            "data": {"path": str(data_dir / "prompts_heldout"), "max_prompt_tokens": 64},
            "eval_data": {"path": str(data_dir / "prompts_heldout"), "max_prompt_tokens": 64},
            "eval_every_steps": 1,
            "checkpoint": {"every_steps": 1},
            "sampling": {"max_response_tokens": 4},
            "algorithm": {
                "advantage_estimator": "grpo",
                "kl_coef": 0.1,
                "prompts_per_step": 4,
                "n_samples_per_prompt": 2,
                "mini_batch_size": 8,
            },
            "learner": {"engine": {"zero_stage": 2}, "optimizer": {"lr": 1e-3}},
            "generator": {"max_num_seqs": 8},
            "placement": {
                **dict.fromkeys(SHARING, shared),
                "functions": small,
                "encoder": small,
                "eval_encoder": small,
                "colocate": [SHARING],
            },
        }
    )


def longer(completions: Sequence[str], **columns: Any) -> list[float]:
    return [float(len(completion)) for completion in completions]


def visible(group: ActorGroup[Any]) -> list[str | None]:
    """GPUs that each actor of a group sees."""
    handles: list[Any] = list(group.handles)
    asked = [handle.__ray_call__.remote(lambda _: os.environ.get("CUDA_VISIBLE_DEVICES")) for handle in handles]
    return deadline_get(asked, ANSWER_S, "visible GPUs")


def test_roles_share_devices_and_take_turns(gpus: None, cfg: PPOConfig, tmp_path: Path) -> None:
    records = dict.fromkeys(("data", "eval_data"), read_records(cfg.data, PROMPT, tmp_path))
    with launch(cfg, records, tmp_path) as fleet:
        assert fleet.turns is not None
        groups: list[ActorGroup[Any]] = [fleet.turns.roles[role].group for role in SHARING]
        seen = [visible(group) for group in groups]
        assert seen[0] == seen[1] == seen[2]
        assert all(device and device.isdigit() for device in seen[0])
        assert len(set(seen[0])) == 2, "each seat has its own device"
        assert visible(fleet.prompts.group) == [""]
        train(cfg, fleet, tmp_path, begin(cfg, tmp_path, run_record(cfg, records), resume=False))
        history = fleet.turns.ledger.history
    phases = [part[0][0] for part in _by_phase(history)]
    of_evaluation, of_saving = ["generate", "judge"], ["learn"]
    assert phases == ["generate", "judge", "learn", "push", *of_evaluation, *of_saving] * STEPS
    metrics = read_metrics(tmp_path)
    assert [row["step"] for row in metrics] == list(range(STEPS))
    assert all(row["mismatch_max"] < WITHIN and row["weight_bytes"] > 0 for row in metrics)
    for part in _by_phase(history):
        there = {role for _, role, nbytes in part if nbytes}
        assert there == set(SHARING) & set(AT_WORK[part[0][0]])


def _by_phase(history: Sequence[Change]) -> Iterator[Sequence[Change]]:
    """Every role is told in every phase."""
    for start in range(0, len(history), len(SHARING)):
        yield history[start : start + len(SHARING)]
