"""The configuration of generators."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field, PositiveInt, field_validator

from mmrlhf_ray.config.base import MostMedia
from mmrlhf_ray.config.section import Section

_OWN_ENGINE_ARGS = {
    **{name: f"set generator.{name}" for name in (
        "gpu_memory_utilization", "tensor_parallel_size", "max_num_seqs", "enforce_eager", "block_size",
    )},
    "model": "set policy.path",
    "tokenizer": "it is the policy's",
    "dtype": "set policy.dtype",
    "seed": "set seed",
    "max_model_len": "it is data.max_prompt_tokens + sampling.max_response_tokens",
    "limit_mm_per_prompt": "set generator.max_media_per_prompt",
    "mm_processor_kwargs": "set data.video and the model's own processor files",
    "trust_remote_code": "code that comes with weights is never run",
    **dict.fromkeys(("enable_lora", "max_loras", "max_lora_rank", "lora_dtype"), "set learner.lora"),
    **dict.fromkeys(
        ("logprobs_mode", "weight_transfer_config", "enable_prefix_caching", "worker_extension_cls"),
        "log-probabilities and weights would not be what the learner takes them for",
    ),
}  # fmt: skip
"""Argument of vLLM's that is this project's own → what to do instead."""


class GeneratorConfig(Section):
    """The sampler, vLLM."""

    gpu_memory_utilization: float = Field(0.6, gt=0, lt=1)
    """Share of a GPU's memory that vLLM takes, for weights, keys and values."""
    tensor_parallel_size: PositiveInt = 1
    """GPUs that one generator's model is spread over."""
    max_num_seqs: PositiveInt = 128
    """Most responses that one generator samples at a time."""
    cpu_kv_cache_gb: PositiveInt = 1
    """GiB for keys and values on CPUs."""
    enforce_eager: bool = True
    """Without CUDA graphs: a quicker start, slower sampling on GPUs."""
    block_size: PositiveInt | None = None
    """Tokens in a block of the sampler's cache: a group's prompt is computed once for as much of it as fills blocks.
    `null` = 32 on CPUs (vLLM's own 128 there is longer than most prompts), vLLM's choice on GPUs."""
    bucket_mb: PositiveInt = 64
    """Most bytes of weights in a bucket; while one is loaded the next is on its way."""
    max_media_per_prompt: PositiveInt = 16
    """Most images, sounds or clips, of each kind, in one prompt; the sampler reserves memory for as many."""
    engine_args: Mapping[str, Any] = {}
    """More arguments of vLLM's AsyncEngineArgs, such as `kv_cache_dtype`, `max_num_batched_tokens` or
    `speculative_config`; those that this project sets may not be among them."""

    @field_validator("engine_args")
    @classmethod
    def _not_ours(cls, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        for name in arguments:
            if name in _OWN_ENGINE_ARGS:
                raise ValueError(f"{name} is set by this project; {_OWN_ENGINE_ARGS[name]}")
        return arguments

    @property
    def most_media(self) -> MostMedia:
        return MostMedia("generator.max_media_per_prompt", self.max_media_per_prompt)
