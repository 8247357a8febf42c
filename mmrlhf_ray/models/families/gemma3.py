"""Gemma 3: text and images. An image's tokens see each other in both directions."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Gemma3ForConditionalGeneration, PreTrainedModel, ProcessorMixin

from mmrlhf_ray.models.adapter import without_weights
from mmrlhf_ray.models.families.positions import IMAGE, Inputs, complete_inputs, token_kinds


def _tell_kinds(model: PreTrainedModel, inputs: Inputs) -> Inputs:
    """Without them images are read as text is, from left to right, and nothing is said."""
    return {"token_type_ids": token_kinds(inputs["input_ids"], {model.config.image_token_id: IMAGE})}


class Gemma3Adapter:
    family = "gemma3"
    placeholders: Mapping[str, str] = {"image": "boi_token"}
    feature_keys: Mapping[str, tuple[str, ...]] = {"image": ("pixel_values",)}
    sampled_as: Mapping[str, str] = {}
    video_metadata = False
    least_sound_s = 0.0
    language_model = r"model\.language_model"
    parts: Mapping[str, str] = {
        "language_model": r"model\.language_model\..*|lm_head\..*",
        "vision_tower": r"model\.vision_tower\..*",
        "projector": r"model\.multi_modal_projector\..*",
    }

    def load(self, path: Path, dtype: torch.dtype, device_map: str | None = None) -> PreTrainedModel:
        model = Gemma3ForConditionalGeneration.from_pretrained(str(path), dtype=dtype, device_map=device_map)
        complete_inputs(model, _tell_kinds)
        return model.eval()

    def architecture(self, path: Path) -> PreTrainedModel:
        return without_weights(Gemma3ForConditionalGeneration, path)

    def processor_kwargs(self, processor: ProcessorMixin) -> dict[str, Any]:
        # Crops of an image would make its tokens depend on its shape, and the sampler says that it attends to them
        # otherwise than the model was trained to.
        return {"images_kwargs": {"do_pan_and_scan": False}}

    def item_rows(
        self, processor: ProcessorMixin, key: str, outputs: Mapping[str, Any], kinds: Sequence[str]
    ) -> list[int]:
        return [1] * len(kinds)

    def checkpoint_name(self, name: str) -> str:
        # Released checkpoints keep the names of an older class.
        for prefix, released in _RELEASED.items():
            if name.startswith(prefix):
                return released + name.removeprefix(prefix)
        return name

    def checkpoint_tensors(self, name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
        yield self.checkpoint_name(name), tensor


_RELEASED = {
    "model.language_model.": "language_model.model.",
    "model.vision_tower.": "vision_tower.vision_model.",
    "model.multi_modal_projector.": "multi_modal_projector.",
    "lm_head.": "language_model.lm_head.",
}
