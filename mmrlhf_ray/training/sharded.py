"""A frozen model that a group of ranks holds together: ZeRO-3 (Rajbhandari et al. 2020) without an optimizer."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from mmrlhf_ray.config.base import ModelConfig
from mmrlhf_ray.config.learner import EngineConfig, OptimizerConfig
from mmrlhf_ray.data.encoding.encode import load_encoder
from mmrlhf_ray.models import HeadedModel, Reading, load_policy
from mmrlhf_ray.training.engine import deepspeed_config, partitioned_loading
from mmrlhf_ray.training.logprobs import ResponseLogprobs
from mmrlhf_ray.training.passes import Passes

_ENGINE, _OPTIMIZER = EngineConfig(zero_stage=3), OptimizerConfig()
"""The latter is for DeepSpeed's JSON alone; there is no optimizer."""


class ShardedInference:
    """One rank's share of a model that only answers. The weights of a layer are gathered while it computes."""

    def __init__(self, model: HeadedModel, dtype: torch.dtype, device: torch.device):
        import deepspeed  # training.engine has chosen its accelerator

        model.requires_grad_(False)
        config = deepspeed_config(_ENGINE, _OPTIMIZER, dtype)
        self._engine, *_ = deepspeed.initialize(model=model.eval().to(device), config=config)
        self._engine.eval()

    def forward(self, select: Tensor, reading: Reading | None = None, **inputs: Tensor) -> Tensor:
        """HeadedModel.forward(). A collective: all ranks run equally many passes over the same media towers."""
        output: Tensor = self._engine(select, reading, **inputs)
        return output

    @property
    def held(self) -> int:
        """Parameters that this rank holds between passes; small ones are held by all."""
        return sum(p.numel() or p.ds_tensor.numel() for p in self._engine.module.parameters())

    @property
    def held_bytes(self) -> int:
        """Of those parameters."""
        return self.held * next(self._engine.module.parameters()).element_size()


def sharded_policy(
    model: ModelConfig, temperature: float, device: torch.device, allowed: Sequence[str] = ()
) -> tuple[ShardedInference, Passes, ResponseLogprobs]:
    """As frozen_policy(), held by all ranks of the process group that exists. A collective. Raises ModelError."""
    encoder, dtype = load_encoder(model.path, allowed=allowed), getattr(torch, model.compute_dtype)
    with partitioned_loading(_ENGINE, _OPTIMIZER, dtype):
        policy = load_policy(encoder.adapter, Path(model.path), dtype)
    inference = ShardedInference(policy, dtype, device)
    return inference, Passes(inference, encoder, device), ResponseLogprobs(encoder, temperature)
