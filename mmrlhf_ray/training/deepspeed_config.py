"""DeepSpeed's settings, made of ours."""

from typing import Any

import torch

from mmrlhf_ray.config.base import EngineConfig, OptimizerConfig


def deepspeed_config(engine: EngineConfig, optimizer: OptimizerConfig, dtype: torch.dtype) -> dict[str, Any]:
    """DeepSpeed's JSON. Accumulation is driven by TrainEngine, so its own is one."""
    zero: dict[str, Any] = {"stage": engine.zero_stage}
    if engine.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    if engine.zero_stage == 3:
        # Small tensors stay complete on each rank: gathering them costs more than it saves.
        zero["stage3_param_persistence_threshold"] = 10_000
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": optimizer.max_grad_norm,
        "bf16": {"enabled": dtype == torch.bfloat16},
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 2**31,
    }
