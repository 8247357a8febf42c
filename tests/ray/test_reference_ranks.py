"""The reference as ranks of one group, with real actors: it says what a server says, also after a rank has died."""

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from mmrlhf_ray.config import PPOConfig
from mmrlhf_ray.data.batches.batching import PassBudget
from mmrlhf_ray.data.encoding.encode import load_encoder
from mmrlhf_ray.data.encoding.features import features_table
from mmrlhf_ray.rollout.batch import Rollouts, rollouts_of
from mmrlhf_ray.workers.crew import crew, start_reference_ranks, start_references
from mmrlhf_ray.workers.watch import Watch
from tests.unit.tiny import mixed_media, mixed_rows, rollout_table

START_S = 400.0

pytestmark = pytest.mark.usefixtures("session")


def configuration(model_dir: Path) -> PPOConfig:
    return PPOConfig.model_validate(
        {
            "name": "ranks",
            "policy": {"path": str(model_dir)},
            "data": {"path": "none"},
            "rewards": [{"name": "r", "kind": "function", "function": "length"}],
            "reference_engine": "zero3",
            "sampling": {"temperature": 0.7},
            "placement": {"reference": {"replicas": 2, "num_cpus": 0.1}},
            "deadlines": {"placement_s": 60.0, "start_s": START_S, "stage_s": START_S},
        }
    )


def responses(model_dir: Path) -> Rollouts:
    """Rows of every modality."""
    encoder = load_encoder(model_dir)
    rows, features = mixed_rows(encoder)
    modality = ["+".join(sorted({m.kind for m in shown})) or "text" for shown in mixed_media(encoder)]
    clips = {name: ray.put(features_table({name: own})) for name, own in features.items()}
    return rollouts_of(rollout_table(rows, modality=modality), clips)


def pid_of(actor: Any) -> int:
    pid: int = ray.get(actor.__ray_call__.options(concurrency_group="watch").remote(lambda self: os.getpid()))
    return pid


def test_ranks_say_what_a_server_says_and_all_start_again_where_one_dies(model_dir: Path) -> None:
    cfg, rollouts, budget = configuration(model_dir), responses(model_dir), PassBudget(256)
    with crew(cfg, ["reference"]) as own:
        server = start_references(own, cfg, cfg.policy, cfg.sampling.temperature, budget)
        want, _ = server.ask(rollouts).result()
    watch = Watch(cfg.recovery)
    with crew(cfg, ["reference"], watch) as own, watch:
        ranks = start_reference_ranks(own, watch, cfg, cfg.policy, budget)
        ranks.wait_joined(ranks.join(START_S), START_S)
        before = [pid_of(handle) for handle in ranks.group.handles]
        watch.wait(ranks.group.names, START_S)
        for _ in range(2):
            asked = [ranks.ask(rollouts), ranks.ask(rollouts)]
            for pending in asked:
                found, _ = pending.result()
                np.testing.assert_array_equal(found.offsets, want.offsets)
                np.testing.assert_allclose(found.values, want.values, atol=1e-6, rtol=0.0)
            if before[0] == pid_of(ranks.group.handles[0]):
                os.kill(before[1], signal.SIGKILL)
        assert not {*before} & {pid_of(handle) for handle in ranks.group.handles}
        assert watch.restarts(ranks.group.names) == 3, "the one that died, and then both, once for both questions"
