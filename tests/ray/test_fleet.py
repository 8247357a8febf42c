"""Fleets have a life: two of them in one Ray session, and nothing of either left, however its block ends."""

import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from ray.util.placement_group import placement_group_table, remove_placement_group

from mmrlhf_ray.config import DeadlineConfig, PPOConfig, RolePlacement
from mmrlhf_ray.data.records.readers import Records, read_records
from mmrlhf_ray.errors import DeadlineExceeded
from mmrlhf_ray.runtime.actors import Restarts, Seat, reserve, spawn
from mmrlhf_ray.schema import PROMPT
from mmrlhf_ray.workers.fleet import Fleet, launch

_COUNTED_S = 90.0
_OF_RAY_DATA = {
    "ActorLocationTracker",
    "AutoscalingCoordinator",
    "_dataset_stats_actor",
    "_dataset_stats_summary_actor",
}
_ROLES = ["encoder-0", "generator-0", "policy-0", "reference-0", "scorer-0"]

pytestmark = pytest.mark.usefixtures("session")


@pytest.fixture
def cfg(model_dir: Path, reward_model_dir: Path, data_dir: Path) -> PPOConfig:
    small: dict[str, Any] = {"num_cpus": 0.1}
    return PPOConfig.model_validate(
        {
            "name": "fleet",
            "device": "cpu",
            "policy": {"path": str(model_dir)},
            "rewards": [{"name": "reward_model", "kind": "model", "model": {"path": str(reward_model_dir)}}],
            "data": {"path": str(data_dir / "prompts_heldout"), "max_prompt_tokens": 64, "facts_column": "facts"},
            "sampling": {"max_response_tokens": 4},
            "algorithm": {
                "advantage_estimator": "grpo",
                "prompts_per_step": 4,
                "n_samples_per_prompt": 2,
                "mini_batch_size": 8,
            },
            "learner": {"engine": {"zero_stage": 0}},
            "generator": {"max_num_seqs": 8},
            "placement": {
                **dict.fromkeys(("generator", "scorer", "reference", "encoder"), small),
                "policy": {"replicas": 1, **small},
            },
        }
    )


def actors() -> list[str]:
    """Names of all actors that are alive, in every namespace but those of Ray Data."""
    named = ray.util.list_named_actors(all_namespaces=True)
    return sorted(actor["name"] for actor in named if actor["namespace"] not in _OF_RAY_DATA)


def reserved() -> list[str]:
    """Placement groups that hold something."""
    return [group for group, about in placement_group_table().items() if about["state"] != "REMOVED"]


def nothing_is_left() -> bool:
    """No name and no placement group, at once; and the CPUs are free, which Ray counts a moment later."""
    left = actors() + reserved()
    until = time.monotonic() + _COUNTED_S
    while ray.available_resources().get("CPU") != ray.cluster_resources()["CPU"] and time.monotonic() < until:
        time.sleep(0.1)
    return not left and ray.available_resources().get("CPU") == ray.cluster_resources()["CPU"]


def sampled(fleet: Fleet) -> list[list[int]]:
    rollouts = fleet.generators.generate(fleet.prompts.take(range(4)), 2)
    scores, _ = fleet.rewards.ask(rollouts).result()
    assert len(scores["reward_model"].values) == 8
    return rollouts.table.column("response_token_ids").to_pylist()


def test_two_fleets_live_in_one_session_and_give_everything_back(cfg: PPOConfig, tmp_path: Path) -> None:
    records = {"data": read_records(cfg.data, PROMPT, tmp_path)}
    assert nothing_is_left()
    with launch(cfg, records, tmp_path) as first:
        assert actors() == _ROLES
        alone = sampled(first)
        with launch(cfg, records, tmp_path) as second:
            assert actors() == sorted(_ROLES * 2)
            assert sampled(second) == sampled(first) == alone
        assert actors() == _ROLES
        assert len(reserved()) == 1
        assert sampled(first) == alone
    assert nothing_is_left()


def test_an_exception_in_the_middle_leaves_nothing_behind(cfg: PPOConfig, tmp_path: Path) -> None:
    records = {"data": read_records(cfg.data, PROMPT, tmp_path)}
    with pytest.raises(DeadlineExceeded, match="generator-0"):
        give_up(cfg, records, tmp_path)
    assert nothing_is_left()


def give_up(cfg: PPOConfig, records: Mapping[str, Records], run_dir: Path) -> None:
    with launch(cfg, records, run_dir) as fleet:
        impatient = replace(fleet.generators, deadline_s=0.01)
        impatient.generate(fleet.prompts.take(range(4)), 2)


def test_a_fleet_that_cannot_start_leaves_nothing_behind(cfg: PPOConfig, tmp_path: Path) -> None:
    records = {"data": read_records(cfg.data, PROMPT, tmp_path)}
    broken = cfg.model_copy(update={"reference": cfg.policy.model_copy(update={"path": str(tmp_path / "nothing")})})
    with pytest.raises(Exception, match="nothing"), launch(broken, records, tmp_path):
        raise AssertionError("started without its reference")
    assert nothing_is_left()


class Counting:
    """Says how many threads its process computes with, and a process that it starts."""

    def threads(self) -> tuple[int, str]:
        child = [sys.executable, "-c", "import os; print(os.environ['OMP_NUM_THREADS'])"]
        return torch.get_num_threads(), subprocess.run(child, check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.parametrize(
    ("placed", "threads"), [({}, 1), ({"num_cpus": 0.1, "threads": 2}, 2), ({"num_cpus": 2.0}, 2), ({"num_cpus": 0}, 1)]
)
def test_an_actor_computes_with_the_threads_of_its_seat(placed: dict[str, Any], threads: int) -> None:
    seat = Seat("reference", "reference-0", RolePlacement(**placed))
    group = reserve([[seat]], "PACK", DeadlineConfig(placement_s=60.0))
    try:
        actor: Any = spawn(seat, group, 0, f"counted-{placed}", Restarts(), Counting)
        assert ray.get(actor.threads.remote(), timeout=60) == (threads, str(threads))
    finally:
        remove_placement_group(group)  # and its actor ends
