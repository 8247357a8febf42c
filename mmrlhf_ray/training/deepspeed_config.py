"""DeepSpeed's settings: those that are made of ours, and those that are given as they are."""

from typing import Any

import torch

from mmrlhf_ray.config.learner import EngineConfig, OptimizerConfig
from mmrlhf_ray.config.source import merged
from mmrlhf_ray.errors import ConfigError

_BUCKET = 500_000_000
"""Gradients that DeepSpeed itself would reduce at once."""


def deepspeed_config(
    engine: EngineConfig, optimizer: OptimizerConfig, dtype: torch.dtype, learned: int = _BUCKET
) -> dict[str, Any]:
    """DeepSpeed's JSON. Accumulation is driven by TrainEngine, so its own is one; in bfloat16 the gradients of passes
    are added in float32, but not without ZeRO, where DeepSpeed cannot. `engine.deepspeed` is merged last.

    learned: parameters that are trained. DeepSpeed takes memory for a whole bucket of gradients, however few there are:
    2 GB for each engine.
    """
    zero: dict[str, Any] = {"stage": engine.zero_stage, "reduce_bucket_size": min(_BUCKET, learned)}
    if engine.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    if engine.zero_stage == 3:
        # Small tensors stay complete on each rank: gathering them costs more than it saves.
        zero["stage3_param_persistence_threshold"] = 10_000
    made: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": optimizer.max_grad_norm,
        "bf16": {"enabled": dtype == torch.bfloat16},
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 2**31,
    }
    if dtype == torch.bfloat16 and engine.zero_stage:
        made["data_types"] = {"grad_accum_dtype": "fp32"}
    return merged(made, engine.deepspeed)


def check_settings(engine: EngineConfig, optimizer: OptimizerConfig, dtype: torch.dtype, section: str) -> None:
    """Raise ConfigError for `engine.deepspeed` that DeepSpeed would refuse when ranks start. `section`: of the run's
    configuration that holds `engine`."""
    if not engine.deepspeed:
        return
    from deepspeed.runtime.config import DeepSpeedConfig, DeepSpeedConfigError

    try:
        DeepSpeedConfig(deepspeed_config(engine, optimizer, dtype))
    except (DeepSpeedConfigError, AssertionError, KeyError, TypeError, ValueError) as error:
        said = " ".join(str(error).split())[:300] or type(error).__name__
        raise ConfigError(
            f"{section}.engine.deepspeed: DeepSpeed refuses it: {said}; correct or remove the key"
        ) from error
