"""Parts of a model with learning rates of their own, and parts that stay. (Several ranks: tests/ray/test_parts.py.)"""

import pytest
import torch

from mmrlhf_ray.config.learner import EngineConfig, OptimizerConfig
from mmrlhf_ray.models import HeadedModel, ParameterGroup
from mmrlhf_ray.training.engine import TrainEngine
from tests.unit.training.test_engine import loss_of, model, parameters, passes

OPTIMIZER = OptimizerConfig(lr=0.02, eps=1e-12, max_grad_norm=1e9, warmup_steps=2)
FAST = 0.06


def engine_of(net: HeadedModel, stage: int) -> TrainEngine:
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(not name.startswith("backbone.second"))
    groups = [
        ParameterGroup("", OPTIMIZER.lr, (net.head.weight,)),
        ParameterGroup("first", FAST, tuple(net.backbone.first.parameters())),
    ]
    return TrainEngine(net, EngineConfig(zero_stage=stage), OPTIMIZER, 4, torch.float32, torch.device("cpu"), groups)


@pytest.mark.parametrize("stage", [0, 1, 3])
def test_each_group_moves_at_its_rate_and_the_frozen_stay(process_group: None, stage: int) -> None:
    engine = engine_of(model(), stage)
    before = parameters(engine)
    assert engine.learning_rates == pytest.approx({"lr": 0.01, "lr_first": 0.03})  # half of it, in warm-up
    x = passes(0)[0]
    engine.backward(loss_of(engine.forward(torch.arange(5), x=x)), last=True)
    moved = {name: float((after - before[name]).abs().max()) for name, after in parameters(engine).items()}
    # AdamW's first step is the rate itself in every parameter that has a gradient.
    want = {"head.weight": 0.01, "backbone.first.weight": 0.03, "backbone.first.bias": 0.03}
    assert moved == pytest.approx(want | {"backbone.second.weight": 0.0, "backbone.second.bias": 0.0}, rel=1e-4)
    assert engine.learning_rates == pytest.approx({"lr": 0.02, "lr_first": 0.06})
