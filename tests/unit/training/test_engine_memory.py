"""Where a learner's state lies: what is trained is the same, wherever that is."""

from pathlib import Path

import torch

from mmrlhf_ray.config.base import EngineConfig
from mmrlhf_ray.training.engine import TrainEngine
from tests.unit.training.rank_process import run_ranks
from tests.unit.training.test_engine import CPU, OPTIMIZER, STEPS, loss_of, model, passes, plain_torch


def engine_of(stage: int, **settings: object) -> TrainEngine:
    config = EngineConfig.model_validate({"zero_stage": stage, **settings})
    return TrainEngine(model(), config, OPTIMIZER, STEPS, torch.float32, CPU)


def step(engine: TrainEngine, number: int) -> None:
    """Of all ranks, each with one of the two passes."""
    x = passes(number)[engine.rank]
    engine.backward(loss_of(engine.forward(torch.arange(x.shape[1]), x=x)), last=True)


def with_the_optimizer_in_host_memory(rank: int, directory: Path) -> None:
    for stage in (1, 2, 3):
        engine = engine_of(stage, offload_optimizer=True)
        assert type(engine._adamw).__name__ == "DeepSpeedCPUAdam"
        for number in range(STEPS):
            step(engine, number)
        weights = engine.weights()
        if rank == 0:
            torch.save(weights, directory / f"weights-{stage}.pt")


def test_an_optimizer_in_host_memory_takes_the_same_steps(tmp_path: Path) -> None:
    run_ranks(2, with_the_optimizer_in_host_memory, tmp_path)
    want, _, _ = plain_torch()
    for stage in (1, 2, 3):
        got = torch.load(tmp_path / f"weights-{stage}.pt")
        assert got.keys() == want.keys()
        for name, tensor in want.items():
            torch.testing.assert_close(got[name], tensor, atol=1e-6, rtol=0)
