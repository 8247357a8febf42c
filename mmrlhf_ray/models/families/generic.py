"""Any other family: what differs is read from the processor and from transformers' class."""

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForMultimodalLM, PreTrainedModel, ProcessorMixin
from transformers.core_model_loading import revert_weight_conversion

from mmrlhf_ray.errors import ModelError
from mmrlhf_ray.models.adapter import load_processor, read_config
from mmrlhf_ray.models.families.clips import Tower
from mmrlhf_ray.models.families.positions import IMAGE, VIDEO, Inputs, complete_inputs, token_kinds
from mmrlhf_ray.models.families.shared import SharedRows
from mmrlhf_ray.models.families.weights import load_weights

_COMPONENTS = {"image": "image_processor", "audio": "feature_extractor", "video": "video_processor"}
_TOWERS = {"vision_tower": r"vision|visual|image_(encoder|tower)|vit", "audio_tower": r"audio|speech"}
# Inputs of a class that say of each position what stands there.
_TOKEN_KINDS = ("mm_token_type_ids", "token_type_ids")


@dataclass(eq=False)
class GenericAdapter:
    """ModelAdapter of a directory. Only for directories on which `mmrlhf parity` passed: nothing else shows that what
    is inferred here is right."""

    family: str
    placeholders: Mapping[str, str]
    feature_keys: Mapping[str, tuple[str, ...]]
    language_model: str
    parts: Mapping[str, str]
    kinds: Mapping[int, int]
    """Placeholder's token id → kind, as the class numbers them."""
    skeleton: PreTrainedModel
    """The model without weights, which knows how checkpoints name them."""
    sampled_as: Mapping[str, str]
    video_metadata: bool = True
    least_sound_s: float = 0.0
    towers: Mapping[str, Tower] = field(default_factory=dict)
    """None: how a class hands on what its towers return cannot be inferred."""
    shared_rows: SharedRows | None = None
    """Nor can how it numbers and masks what it reads."""

    def load(self, path: Path, dtype: torch.dtype, device_map: str | None = None) -> PreTrainedModel:
        model = load_weights(type(self.skeleton), path, dtype, device_map)
        taken = inspect.signature(type(model).forward).parameters
        names = [name for name in _TOKEN_KINDS if name in taken]

        def tell_kinds(_: PreTrainedModel, inputs: Inputs) -> Inputs:
            return dict.fromkeys(names, token_kinds(inputs["input_ids"], self.kinds))

        if names:
            complete_inputs(model, tell_kinds)
        return model.eval()

    def architecture(self, path: Path) -> PreTrainedModel:
        return _skeleton(path)

    def processor_kwargs(self, processor: ProcessorMixin) -> dict[str, Any]:
        return {"videos_kwargs": {"do_sample_frames": False}} if "video" in self.placeholders else {}

    def item_rows(
        self, processor: ProcessorMixin, key: str, outputs: Mapping[str, Any], kinds: Sequence[str]
    ) -> list[int]:
        """One row for each clip, or as many as the product of the clip's row of another output. Raises ValueError."""
        rows = len(outputs[key])
        if rows == len(kinds):
            return [1] * rows
        for name in self.feature_keys[kinds[0]]:
            sizes = np.asarray(outputs[name])
            if name != key and sizes.ndim == 2 and sizes.dtype.kind == "i" and sizes.prod(-1).sum() == rows:
                packed: list[int] = sizes.prod(-1).tolist()
                if len(packed) == len(kinds):
                    return packed
        raise ValueError(
            f"the processor of {self.family} returned {rows} rows of {key} for {len(kinds)} clips, and nothing tells "
            "which are whose; write an adapter for the family (docs/models.md)"
        )

    def checkpoint_name(self, name: str) -> str:
        return next(self.checkpoint_tensors(name, torch.empty(0, device="meta")))[0]

    def checkpoint_tensors(self, name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
        yield from revert_weight_conversion(self.skeleton, {name: tensor}).items()


def discover(path: Path) -> GenericAdapter:
    """The properties that the directory's processor and class reveal. Raises ModelError where they tell too little."""
    family = str(read_config(path).get("model_type"))
    processor, skeleton = load_processor(path), _skeleton(path)
    placeholders = dict(_placeholders(processor))
    if not placeholders:
        raise ModelError(
            f"{path}: the processor ({type(processor).__name__}) shows no image, audio or video in a prompt; expected "
            "a chat template that writes the processor's image_token, audio_token or video_token"
        )
    language = next((n for n, module in skeleton.named_modules() if module is skeleton.get_decoder()), "")
    if not language or not hasattr(skeleton, "lm_head"):
        raise ModelError(f"{path}: {type(skeleton).__name__} has no language model with an lm_head next to its towers")
    ids = {kind: processor.tokenizer.convert_tokens_to_ids(getattr(processor, a)) for kind, a in placeholders.items()}
    numbers = {"image": IMAGE, "video": VIDEO, "audio": 3}
    return GenericAdapter(
        family=family,
        placeholders=placeholders,
        feature_keys={kind: _feature_keys(processor, skeleton, kind) for kind in placeholders},
        language_model=re.escape(language),
        parts=_parts(skeleton, language),
        kinds={ids[kind]: numbers[kind] for kind in ids},
        skeleton=skeleton,
        sampled_as={},
    )


def _skeleton(path: Path) -> PreTrainedModel:
    try:
        config = AutoConfig.from_pretrained(str(path), trust_remote_code=False)
        with torch.device("meta"):
            model: PreTrainedModel = AutoModelForMultimodalLM.from_config(config)
    except (ValueError, KeyError) as error:  # what transformers raises for what it does not know
        raise ModelError(f"{path}: transformers has no class that reads it: {str(error)[:200]}") from error
    return model


def _placeholders(processor: ProcessorMixin) -> Iterator[tuple[str, str]]:
    """Media kind → processor attribute, for the kinds that the chat template shows by one such token."""
    for kind, component in _COMPONENTS.items():
        attribute = f"{kind}_token"
        token = getattr(processor, attribute, None)
        if getattr(processor, component, None) is None or not isinstance(token, str):
            continue
        chat = [{"role": "user", "content": [{"type": kind}, {"type": "text", "text": "."}]}]
        if processor.apply_chat_template(chat, tokenize=False).count(token) == 1:
            yield kind, attribute


def _feature_keys(processor: ProcessorMixin, model: PreTrainedModel, kind: str) -> tuple[str, ...]:
    """The outputs that the component declares, as far as the class takes them."""
    taken = inspect.signature(type(model).forward).parameters
    named = getattr(processor, _COMPONENTS[kind]).model_input_names
    renamed = {"attention_mask": "feature_attention_mask"} if kind == "audio" else {}
    return tuple(key for name in named if (key := renamed.get(name, name)) in taken)


def _parts(model: PreTrainedModel, language: str) -> dict[str, str]:
    """Parameters by the name of the module that they are in, one level below the language model's owner."""
    owner = language.rpartition(".")[0]
    prefix = f"{owner}." if owner else ""
    inside = {
        name.removeprefix(prefix).split(".")[0] for name, _ in model.named_parameters() if name.startswith(prefix)
    }
    inside -= {language.rpartition(".")[2], "lm_head"}
    parts = {"language_model": rf"{re.escape(language)}\..*|lm_head\..*"}
    for part, pattern in _TOWERS.items():
        found = sorted(name for name in inside if re.search(pattern, name) and "proj" not in name)
        if found:
            parts[part] = rf"{re.escape(prefix)}({'|'.join(map(re.escape, found))})\..*"
            inside -= set(found)
    if inside:
        parts["projector"] = rf"{re.escape(prefix)}({'|'.join(map(re.escape, sorted(inside)))})(\..*)?"
    return parts
