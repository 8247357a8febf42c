"""The differences between model families, behind one Protocol. `families/` implements it: a value for each family,
and a generic adapter for any other."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import AutoProcessor, PreTrainedModel, ProcessorMixin

from mmrlhf_ray.errors import ModelError


class ModelAdapter(Protocol):
    """One model family: how to load it, what its processor returns, what its weights are called."""

    @property
    def family(self) -> str:
        """`model_type` of the directory's config.json."""

    @property
    def placeholders(self) -> Mapping[str, str]:
        """Media kind → the processor attribute that holds its placeholder token."""

    @property
    def feature_keys(self) -> Mapping[str, tuple[str, ...]]:
        """Media kind → the processor's outputs that belong to it."""

    @property
    def sampled_as(self) -> Mapping[str, str]:
        """Processor attribute of a placeholder that the sampler leaves in an expanded prompt → of the one that the
        processor writes there. What is embedded is the same."""

    @property
    def video_metadata(self) -> bool:
        """Whether the processor wants each clip's frame rate and frame numbers."""

    @property
    def least_sound_s(self) -> float:
        """Seconds that shorter sounds are filled up to with silence; if above 0, all are filled up to a multiple of the
        extractor's hop. For towers that read what is padded too, and so give another answer in other company."""

    @property
    def language_model(self) -> str:
        """Regular expression of the language model's module name, in transformers' classes that read the directory."""

    @property
    def parts(self) -> Mapping[str, str]:
        """Key of PartsConfig → regular expression of its parameters' names in the class that load() returns. Every
        parameter belongs to exactly one part."""

    def load(self, path: Path, dtype: torch.dtype, device_map: str | None = None) -> PreTrainedModel:
        """The causal language model with its media towers, in evaluation mode; on the CPU, or spread over the
        process's GPUs by `device_map="auto"`."""

    def architecture(self, path: Path) -> PreTrainedModel:
        """The model that load() returns, without its weights: on the meta device, from config.json alone."""

    def processor_kwargs(self, processor: ProcessorMixin) -> dict[str, Any]:
        """Keyword arguments that learner and sampler both pass to the processor."""

    def item_rows(
        self, processor: ProcessorMixin, key: str, outputs: Mapping[str, Any], kinds: Sequence[str]
    ) -> list[int]:
        """How the rows (dim 0) of the processor's output `key` divide among the clips that it belongs to. `kinds`: of
        those clips, in prompt order."""

    def checkpoint_name(self, name: str) -> str:
        """Name of a learner's parameter in the directory's safetensors, which is the sampler's name too."""

    def checkpoint_tensors(self, name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
        """A learner's parameter as the directory's safetensors have it: under checkpoint_name(), or in pieces."""


def read_config(path: Path) -> dict[str, Any]:
    """config.json of a model directory. Raises ModelError where there is none."""
    file = Path(path) / "config.json"
    if not file.is_file():
        raise ModelError(f"{path}: expected a model directory in Hugging Face format, found no config.json; check path")
    return json.loads(file.read_text())


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
