"""What differs between model families, behind one Protocol. One file per family implements it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import AutoProcessor, PreTrainedModel, ProcessorMixin

from mmrlhf_ray.models.errors import ModelError


class ModelAdapter(Protocol):
    """One model family: how to load it, what its processor returns, what its weights are called."""

    family: str
    """`model_type` of the directory's config.json."""
    placeholders: Mapping[str, str]
    """Media kind → the processor attribute that holds its placeholder token."""
    feature_keys: Mapping[str, tuple[str, ...]]
    """Media kind → the processor's outputs that belong to it."""
    packed_by: Mapping[str, str]
    """Features that are packed over items along dim 0 → the grid whose row products give the items' lengths."""
    video_metadata: bool
    """Whether the processor wants each clip's frame rate and frame numbers."""
    language_model: str
    """Regular expression of the language model's module name, in transformers' classes that read the directory."""

    def load(self, path: Path, dtype: torch.dtype, device_map: str | None = None) -> PreTrainedModel:
        """The causal language model with its media towers, in evaluation mode; on the CPU, or spread over the
        process's GPUs by `device_map="auto"`."""

    def processor_kwargs(self, processor: ProcessorMixin) -> dict[str, Any]:
        """Keyword arguments that learner and sampler both pass to the processor."""

    def checkpoint_name(self, name: str) -> str:
        """Name of a learner's parameter in the directory's safetensors, which is the sampler's name too."""


def read_config(path: Path) -> dict[str, Any]:
    """config.json of a model directory. Raises ModelError where there is none."""
    file = Path(path) / "config.json"
    if not file.is_file():
        raise ModelError(f"{path}: expected a model directory in Hugging Face format, found no config.json; check path")
    return json.loads(file.read_text())


def adapter_for(path: Path) -> ModelAdapter:
    """The adapter of the family that config.json names. Raises ModelError for an unknown family."""
    from mmrlhf_ray.models.qwen2_5_omni import Qwen2_5OmniAdapter
    from mmrlhf_ray.models.qwen2_5_vl import Qwen2_5VLAdapter

    families: tuple[ModelAdapter, ...] = (Qwen2_5OmniAdapter(), Qwen2_5VLAdapter())
    model_type = read_config(path).get("model_type")
    for adapter in families:
        if adapter.family == model_type:
            return adapter
    known = ", ".join(a.family for a in families)
    raise ModelError(f"{path}/config.json: model_type is {model_type!r}; families with an adapter: {known}")


def load_processor(path: Path) -> ProcessorMixin:
    """The directory's own processor (tokenizer, image, audio and video parts, chat template)."""
    return AutoProcessor.from_pretrained(str(path), trust_remote_code=False)


def eos_token_ids(path: Path) -> list[int]:
    """Token ids that end a response, from generation_config.json. Raises ModelError where it names none."""
    file = Path(path) / "generation_config.json"
    ids = json.loads(file.read_text()).get("eos_token_id") if file.is_file() else None
    if ids is None:
        raise ModelError(f"{file}: expected eos_token_id (the token that ends a response), found none; add it")
    return [ids] if isinstance(ids, int) else list(ids)


def banned_token_ids(processor: ProcessorMixin, path: Path) -> list[int]:
    """Tokens that are never sampled: media placeholders and every other control token that does not end a response."""
    tokenizer = processor.tokenizer
    control = {i for i, t in tokenizer.added_tokens_decoder.items() if t.special} | set(tokenizer.all_special_ids)
    return sorted(control - set(eos_token_ids(path)))
