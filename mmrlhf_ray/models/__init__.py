"""Policies, reward and value models; one adapter per processor family."""

from mmrlhf_ray.models.adapter import (
    ModelAdapter,
    adapter_for,
    banned_token_ids,
    eos_token_ids,
    load_processor,
    read_config,
)
from mmrlhf_ray.models.errors import ModelError
from mmrlhf_ray.models.export import export_model
from mmrlhf_ray.models.headed import HeadedModel, checkpoint_name, load_policy, load_scalar, scalar_head_file

__all__ = [
    "HeadedModel",
    "ModelAdapter",
    "ModelError",
    "adapter_for",
    "banned_token_ids",
    "checkpoint_name",
    "eos_token_ids",
    "export_model",
    "load_policy",
    "load_processor",
    "load_scalar",
    "read_config",
    "scalar_head_file",
]
