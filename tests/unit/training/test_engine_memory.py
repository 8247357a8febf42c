"""Where a learner's state lies: what is trained is the same, wherever that is."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from mmrlhf_ray.config.learner import EngineConfig
from mmrlhf_ray.errors import RunError
from mmrlhf_ray.training.engine import TrainEngine
from tests.unit.training.rank_process import run_ranks
from tests.unit.training.test_engine import CPU, OPTIMIZER, STEPS, loss_of, model, passes, plain_torch
from tests.unit.training.test_engine_groups import engine_of as engine_of_groups


def engine_of(stage: int, **settings: object) -> TrainEngine:
    config = EngineConfig.model_validate({"zero_stage": stage, **settings})
    return TrainEngine(model(), config, OPTIMIZER, STEPS, torch.float32, CPU)


def step(engine: TrainEngine, number: int) -> None:
    """Of all ranks, each with one of the two passes."""
    x = passes(number)[engine.rank].to(next(engine._engine.module.parameters()).dtype)
    engine.backward(loss_of(engine.forward(torch.arange(x.shape[1]), x=x).float()), last=True)


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


# offload() and reload().

CASES = [f"{kind}-{stage}" for stage in (1, 2, 3) for kind in ("float32", "parts")]
CASES += [f"{kind}-{stage}" for stage in (2, 3) for kind in ("offload", "bfloat16")]
"""The whole model; two parts with rates of their own while a third is frozen; the optimizer in host memory as well;
master copies beside the weights."""


def engine_for(case: str) -> TrainEngine:
    kind, stage = case.split("-")
    if kind == "parts":
        return engine_of_groups(model(), int(stage))
    dtype = torch.bfloat16 if kind == "bfloat16" else torch.float32
    config = EngineConfig(zero_stage=int(stage), offload_optimizer=kind == "offload")
    return TrainEngine(model().to(dtype), config, OPTIMIZER, STEPS, dtype, CPU)


def on_the_device(engine: TrainEngine) -> dict[int, Tensor]:
    """This rank's parameters and their master copies, all of a storage, by its address."""
    net, optimizer = engine._engine.module, engine._engine.optimizer
    tensors = [getattr(p, "ds_tensor", p) for p in net.parameters()]
    stage = engine._engine.zero_optimization_stage()
    tensors += optimizer.fp32_partitioned_groups_flat if stage == 3 else optimizer.single_partition_of_fp32_groups
    found = {}
    for tensor in filter(Tensor.numel, tensors):
        storage = tensor.untyped_storage()
        found[storage.data_ptr()] = torch.empty(0, dtype=tensor.dtype).set_(storage)
    return found


def in_turns(rank: int, directory: Path) -> None:
    for case in CASES:
        straight, turns = engine_for(case), engine_for(case)
        for number in range(STEPS):
            step(straight, number)
            before = on_the_device(turns)
            turns.offload()
            after = on_the_device(turns)
            moved = [tensor for address, tensor in before.items() if address not in after]
            assert moved, case
            # With the optimizer in host memory the master copies are there already.
            assert len(moved) == len(before) or case.startswith("offload"), case
            for tensor in moved:
                tensor.fill_(float("nan"))  # another's turn on the device
            turns.reload()
            step(turns, number)
        want, got = straight.weights(), turns.weights()
        assert got.keys() == want.keys(), case
        for name, tensor in want.items():
            assert torch.equal(got[name], tensor), (case, name)


def test_a_step_after_a_turn_of_another_is_the_same(tmp_path: Path) -> None:
    run_ranks(2, in_turns, tmp_path)


@pytest.mark.parametrize("case", ["float32-0", "bfloat16-0", "bfloat16-1"])
def test_what_deepspeed_cannot_move_is_refused_by_its_stage(process_group: None, case: str) -> None:
    engine = engine_for(case)
    with pytest.raises(RunError, match=rf"zero_stage {case[-1]} in .*{case[:-2]}.*set zero_stage 2 or 3"):
        engine.offload()


def test_nor_where_deepspeed_keeps_parameters_in_host_memory(process_group: None) -> None:
    engine = engine_of(3, deepspeed={"zero_optimization": {"offload_param": {"device": "cpu"}}})
    with pytest.raises(RunError, match=r"offload_param keeps the parameters in host memory.*remove it"):
        engine.offload()
