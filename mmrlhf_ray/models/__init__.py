"""Policies, reward and value models; one adapter per processor family."""

from mmrlhf_ray.models.adapter import (
    ModelAdapter,
    check_processor_files,
    eos_token_ids,
    load_processor,
    read_config,
)
from mmrlhf_ray.models.export import ADAPTER_DIR, export_lora, export_model
from mmrlhf_ray.models.families.clips import CLIPS, ROWS
from mmrlhf_ray.models.families.divided import Division, dividing
from mmrlhf_ray.models.families.kernels import SDPA, chosen_kernel, is_flash, kernel_of, set_kernel, why_not
from mmrlhf_ray.models.families.registry import adapter_for
from mmrlhf_ray.models.families.shared import PART, PLACE, PLAIN_IDS, PLAIN_MASK, PROMPT
from mmrlhf_ray.models.headed import (
    HeadedModel,
    Reading,
    check_speaks,
    checkpoint_name,
    checkpoint_tensors,
    load_critic,
    load_policy,
    load_scalar,
)
from mmrlhf_ray.models.lora import Weight, add_lora, grouped, lora_off, merged_weights, trained_weights
from mmrlhf_ray.models.parts import ParameterGroup, check_trained, freeze_parts, parameter_groups
from mmrlhf_ray.models.scalar_head import ScalarHead, read_scalar_head, scalar_head_file
from mmrlhf_ray.models.special import SpecialTokens, special_tokens
from mmrlhf_ray.models.spread import Spread
from mmrlhf_ray.models.tokens import check_same_tokens

__all__ = [
    "ADAPTER_DIR",
    "CLIPS",
    "Division",
    "HeadedModel",
    "ModelAdapter",
    "PART",
    "PLACE",
    "PLAIN_IDS",
    "PLAIN_MASK",
    "PROMPT",
    "ParameterGroup",
    "ROWS",
    "Reading",
    "SDPA",
    "ScalarHead",
    "SpecialTokens",
    "Spread",
    "Weight",
    "adapter_for",
    "add_lora",
    "check_processor_files",
    "check_same_tokens",
    "check_speaks",
    "check_trained",
    "checkpoint_name",
    "checkpoint_tensors",
    "chosen_kernel",
    "dividing",
    "eos_token_ids",
    "export_lora",
    "export_model",
    "freeze_parts",
    "grouped",
    "is_flash",
    "kernel_of",
    "load_policy",
    "load_processor",
    "load_scalar",
    "load_critic",
    "lora_off",
    "merged_weights",
    "parameter_groups",
    "read_config",
    "read_scalar_head",
    "scalar_head_file",
    "set_kernel",
    "special_tokens",
    "trained_weights",
    "why_not",
]
