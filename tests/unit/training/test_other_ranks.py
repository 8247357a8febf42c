"""A checkpoint of two ranks is read by one, and that of one by two, under every ZeRO stage."""

import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state
from torch import Tensor

from mmrlhf_ray.config.learner import EngineConfig
from mmrlhf_ray.data.batches.collate import collate
from mmrlhf_ray.data.encoding.encode import load_encoder
from mmrlhf_ray.errors import RunError
from mmrlhf_ray.training.engine import TrainEngine
from tests.unit.tiny import mixed_rows
from tests.unit.training.rank_process import run_ranks
from tests.unit.training.test_engine import CPU, OPTIMIZER, STEPS, Payload, loss_of, model, passes
from tests.unit.training.test_engine_groups import engine_of as engine_of_groups
from tests.unit.training.test_engine_lora import engine_of as engine_with_adapter
from tests.unit.training.test_engine_lora import loss_of as loss_with_adapter

TOLERANCE = 1e-6
CASES = [f"whole-{stage}" for stage in (0, 1, 2, 3)]
CASES += [f"{kind}-{stage}" for kind in ("adapter", "parts", "fresh", "bfloat16", "offload") for stage in (1, 3)]
"""The whole model; an adapter; two parts with rates of their own while a third is frozen; no step before the
checkpoint; master copies beside the weights; the optimizer's state in host memory."""

encoder_of = lru_cache(load_encoder)


def engine_of(case: str, omni: Path) -> TrainEngine:
    kind, stage = case.split("-")
    if kind == "parts":
        return engine_of_groups(model(), int(stage))
    if kind == "adapter":
        return engine_with_adapter(encoder_of(omni), omni, int(stage))
    dtype = torch.bfloat16 if kind == "bfloat16" else torch.float32
    config = EngineConfig(zero_stage=int(stage), offload_optimizer=kind == "offload")
    return TrainEngine(model().to(dtype), config, OPTIMIZER, STEPS, dtype, CPU)


def steps_before(case: str) -> int:
    return 0 if case.startswith("fresh") else 2


def step(engine: TrainEngine, number: int, case: str, omni: Path) -> float:
    """Of all ranks, each with its share of the passes. Returns the loss of all."""
    losses = []
    for loss, last in _losses(engine, number, case, omni):
        engine.backward(loss, last=last)
        losses.append(loss.detach())
    total = torch.stack(losses).sum()
    dist.all_reduce(total)
    return float(total)


def _losses(engine: TrainEngine, number: int, case: str, omni: Path) -> Iterator[tuple[Tensor, bool]]:
    if case.startswith("adapter"):
        rows, features = mixed_rows(encoder_of(omni))
        batch = collate(rows, [], features, 0)
        output = engine.forward(batch.response_positions, **batch.inputs)
        yield loss_with_adapter(output, batch) / engine.world_size, True
        return
    own = passes(number)[engine.rank :: engine.world_size]
    dtype = torch.bfloat16 if case.startswith("bfloat16") else torch.float32
    for x in own:
        yield loss_of(engine.forward(torch.arange(x.shape[1]), x=x.to(dtype)).float()), x is own[-1]


def state(engine: TrainEngine) -> dict[str, Any]:
    """All that a step hangs on, whichever rank has it. A collective."""
    found: dict[str, Any] = {"rates": engine.learning_rates, "steps": engine._schedule.last_epoch}
    optimizer = engine._engine.optimizer
    if engine._zero_stage in (1, 2):  # DeepSpeed looks up the moments of the first group only
        optimizer._hp_optimizer_states_linked = False
        optimizer._lazy_init_hp_params_optimizer_state()
    for name, p in engine._engine.module.named_parameters():
        if p.requires_grad:
            found[name] = _of_parameter(engine, p)
    found["counters"] = {float(own["step"]) for own in engine._adamw.state.values() if own}
    return found


def _of_parameter(engine: TrainEngine, p: Tensor) -> dict[str, Tensor]:
    if not engine._schedule.last_epoch:  # no moments yet
        return {"fp32": safe_get_full_fp32_param(p).clone()} if engine._zero_stage else {"fp32": p.detach().clone()}
    if not engine._zero_stage:
        moments = engine._adamw.state[p]
        return {"fp32": p.detach().clone(), **{k: moments[k].clone() for k in ("exp_avg", "exp_avg_sq")}}
    moments = {k: safe_get_full_optimizer_state(p, k).clone() for k in ("exp_avg", "exp_avg_sq")}
    return {"fp32": safe_get_full_fp32_param(p).clone(), **moments}


def assert_same(case: str, got: dict[str, Any], want: dict[str, Any], tolerance: float) -> None:
    assert got.keys() == want.keys(), case
    for name, value in want.items():
        if isinstance(value, dict) and name != "rates":
            for key, tensor in value.items():
                off = float((got[name][key].float() - tensor.float()).abs().max())
                assert off <= tolerance, (case, name, key, off)
        else:
            assert got[name] == value, (case, name)


def two_begin(rank: int, directory: Path) -> None:
    """Some steps, a checkpoint, and what comes after it."""
    for case in CASES:
        engine, first = engine_of(case, directory / "omni"), steps_before(case)
        for number in range(first):
            step(engine, number, case, directory / "omni")
        engine.save(directory / case / "begun" / "group")
        before = state(engine)
        after = [step(engine, number, case, directory / "omni") for number in (first, first + 1)]
        end = state(engine)
        if rank == 0:
            torch.save((before, after, end), directory / case / "expected.pt")


def two_end(rank: int, directory: Path) -> None:
    """The last step, from the checkpoint that one rank wrote after the step before."""
    for case in CASES:
        engine = engine_of(case, directory / "omni")
        engine.load(directory / case / "between" / "group")
        before = state(engine)
        loss, end = step(engine, steps_before(case) + 1, case, directory / "omni"), state(engine)
        if rank == 0:
            torch.save((before, loss, end), directory / case / "ended.pt")


def test_two_ranks_then_one_then_two(process_group: None, omni: Path, tmp_path: Path) -> None:
    (tmp_path / "omni").symlink_to(omni)
    run_ranks(2, two_begin, tmp_path)
    for case in CASES:
        before, after, _ = torch.load(tmp_path / case / "expected.pt", weights_only=False)
        engine = engine_of(case, omni)
        engine.load(tmp_path / case / "begun" / "group")
        assert_same(case, state(engine), before, TOLERANCE)
        assert step(engine, steps_before(case), case, omni) == pytest.approx(after[0], rel=1e-5), case
        engine.save(tmp_path / case / "between" / "group")
        torch.save(state(engine), tmp_path / case / "between.pt")
        assert [path.name for path in (tmp_path / case).iterdir() if path.name[0] == "."] == []
    run_ranks(2, two_end, tmp_path)
    for case in CASES:
        _, after, last = torch.load(tmp_path / case / "expected.pt", weights_only=False)
        between = torch.load(tmp_path / case / "between.pt", weights_only=False)
        before, loss, end = torch.load(tmp_path / case / "ended.pt", weights_only=False)
        assert_same(case, before, between, TOLERANCE)
        # Two ranks send their gradients in bfloat16, where one adds them in float32.
        rounded = case.startswith("bfloat16")
        assert loss == pytest.approx(after[1], rel=1e-3 if rounded else 1e-5), case
        assert_same(case, end, last, 5e-4 if rounded else 1e-5)


@pytest.mark.parametrize("name", ["mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_optim_states.pt"])
def test_converting_runs_no_code_and_leaves_nothing(
    process_group: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    group = tmp_path / "step" / "group"
    engine = engine_of("whole-2", tmp_path)
    step(engine, 0, "whole-2", tmp_path)
    engine.save(group)
    layout = json.loads((group / "layout.json").read_text())
    (group / "layout.json").write_text(json.dumps(layout | {"ranks": 2}))  # as if another number of ranks wrote it
    (file,) = group.rglob(name)
    torch.save(torch.load(file, weights_only=False) | {"more": Payload()}, file)
    with pytest.raises(RunError, match=r"group.*: refused, since it holds more than tensors and plain values"):
        engine_of("whole-2", tmp_path).load(group)
    assert not Path("unpickled").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["step"]
