"""DeepSpeed's settings: ours, and those of DeepSpeed's that are given as they are."""

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from mmrlhf_ray.config import EngineConfig, OptimizerConfig
from mmrlhf_ray.errors import ConfigError
from mmrlhf_ray.models import HeadedModel
from mmrlhf_ray.training.deepspeed_config import check_settings, deepspeed_config
from tests.unit.training.rank_process import run_ranks

PASSES = 16


def settings(stage: int, dtype: torch.dtype = torch.float32, **given: object) -> dict[str, object]:
    return deepspeed_config(EngineConfig(zero_stage=stage, **given), OptimizerConfig(max_grad_norm=0.5), dtype)


def test_deepspeed_is_configured_as_asked() -> None:
    plain = settings(1)
    assert plain["zero_optimization"] == {"stage": 1, "reduce_bucket_size": 500_000_000}
    assert plain["gradient_clipping"] == 0.5
    assert plain["gradient_accumulation_steps"] == 1
    assert plain["bf16"] == {"enabled": False}
    assert "data_types" not in plain
    large = settings(3, torch.bfloat16, offload_optimizer=True)
    assert large["bf16"] == {"enabled": True}
    assert large["data_types"] == {"grad_accum_dtype": "fp32"}
    assert large["zero_optimization"]["stage"] == 3
    assert large["zero_optimization"]["offload_optimizer"]["device"] == "cpu"


def test_a_bucket_of_gradients_is_no_larger_than_all_of_them() -> None:
    """DeepSpeed takes its memory at once, and keeps it."""
    small = deepspeed_config(EngineConfig(zero_stage=2), OptimizerConfig(), torch.float32, learned=1000)
    large = deepspeed_config(EngineConfig(zero_stage=2), OptimizerConfig(), torch.float32, learned=7 * 10**9)
    assert small["zero_optimization"]["reduce_bucket_size"] == 1000
    assert large["zero_optimization"]["reduce_bucket_size"] == 500_000_000


def test_what_is_given_comes_last_and_leaves_the_rest() -> None:
    given = {
        "zero_optimization": {"overlap_comm": True, "stage3_param_persistence_threshold": 7},
        "data_types": {"grad_accum_dtype": "bf16"},
        "communication_data_type": "fp32",
    }
    found = settings(3, torch.bfloat16, deepspeed=given)
    want = {
        "stage": 3,
        "overlap_comm": True,
        "stage3_param_persistence_threshold": 7,
        "reduce_bucket_size": 500_000_000,
    }
    assert found["zero_optimization"] == want
    assert found["data_types"] == {"grad_accum_dtype": "bf16"}
    assert found == settings(3, torch.bfloat16) | given | {"zero_optimization": want}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"zero_optimization": {"stage": 2}}, r"zero_optimization\.stage is not set here: use engine\.zero_stage"),
        ({"zero_optimization": {"offload_optimizer": {}}}, "use engine.offload_optimizer"),
        ({"train_batch_size": 8}, "the job says how many rows a step has"),
        ({"gradient_accumulation_steps": 8}, "use engine.micro_batch_tokens"),
        ({"gradient_clipping": 1.0}, "use optimizer.max_grad_norm"),
        ({"optimizer": {"type": "Adam"}}, "use the section optimizer"),
        ({"bf16": {"enabled": True}}, "use dtype of the model"),
    ],
)
def test_what_has_a_key_of_ours_is_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        EngineConfig(deepspeed=given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"zero_optimization": {"overlap_com": True}}, "overlap_com"),
        ({"zero_optimization": {"reduce_bucket_size": "many"}}, "reduce_bucket_size"),
        ({"communication_data_type": "fp12"}, "fp12"),
    ],
)
def test_what_deepspeed_refuses_is_refused_before_ranks_start(given: dict[str, object], message: str) -> None:
    engine = EngineConfig(deepspeed=given)
    with pytest.raises(ConfigError, match=rf"learner\.engine\.deepspeed: DeepSpeed refuses it: .*{message}"):
        check_settings(engine, OptimizerConfig(), torch.bfloat16, "learner")


def test_what_deepspeed_takes_passes() -> None:
    engine = EngineConfig(deepspeed={"zero_optimization": {"overlap_comm": True}})
    check_settings(engine, OptimizerConfig(), torch.bfloat16, "learner")


# Accumulation.


class Output:
    def __init__(self, logits: Tensor):
        self.logits = logits


class Given(nn.Module):
    """Features are what was put in."""

    def forward(self, x: Tensor, use_cache: bool) -> Output:
        return Output(x)


def accumulated_norm(stage: int, dtype: torch.dtype, rank: int, **given: object) -> float:
    """Norm of the gradient of all passes: Σ over ranks and passes of x, of which the first is 256 times the others, so
    that in bfloat16 (8 bits) none of them would be seen next to it."""
    from mmrlhf_ray.training.engine import TrainEngine

    model = HeadedModel(Given(), nn.Linear(4, 1, bias=False)).to(dtype)
    optimizer = OptimizerConfig(max_grad_norm=1e6)
    engine = TrainEngine(model, EngineConfig(zero_stage=stage, **given), optimizer, 1, dtype, torch.device("cpu"))
    for number in range(PASSES):
        x = torch.full((1, 1, 4), 1.0 if number == 0 else 2.0**-8, dtype=dtype)
        engine.backward(engine.forward(torch.arange(1), x=x).float().sum() / 2, last=number == PASSES - 1)
    return engine.grad_norm


def accumulate(rank: int, directory: Path) -> None:
    norms = {stage: accumulated_norm(stage, torch.bfloat16, rank) for stage in (1, 2, 3)}
    norms["offload"] = accumulated_norm(2, torch.bfloat16, rank, offload_optimizer=True)
    norms["bf16"] = accumulated_norm(2, torch.bfloat16, rank, deepspeed={"data_types": {"grad_accum_dtype": "bf16"}})
    norms["fp32"] = accumulated_norm(2, torch.float32, rank)
    if rank == 0:
        torch.save(norms, directory / "norms.pt")


def test_gradients_of_passes_are_added_in_float32(tmp_path: Path) -> None:
    run_ranks(2, accumulate, tmp_path)
    norms = torch.load(tmp_path / "norms.pt")
    want = 2.0 * (1.0 + (PASSES - 1) * 2.0**-8)  # 4 elements each the same, over two ranks half of each
    assert norms.pop("fp32") == pytest.approx(want, rel=1e-6)
    assert norms.pop("bf16") == pytest.approx(2.0, rel=1e-3), "the test would show nothing"
    # ZeRO-1 sends the sum in bfloat16, once in a step; the others send each pass.
    assert norms.pop(1) == pytest.approx(want, rel=2.0**-8)
    for case, norm in norms.items():
        assert norm == pytest.approx(want, rel=1e-6), case
