"""Qwen2.5-VL: text, images and video."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, ProcessorMixin, Qwen2_5_VLForConditionalGeneration

from mmrlhf_ray.models.adapter import grid_rows, without_weights
from mmrlhf_ray.models.families.positions import IMAGE, VIDEO, Inputs, complete_inputs, rotary_positions, token_kinds


def _number_positions(model: PreTrainedModel, inputs: Inputs) -> Inputs:
    """The class itself lets the text after a clip go on from the clip's rows and columns, however long it lasts, where
    the model was trained (and vLLM samples) with positions after its last frame."""
    config, ids = model.config, inputs["input_ids"]
    kinds = token_kinds(ids, {config.image_token_id: IMAGE, config.video_token_id: VIDEO})
    merge, rate = config.vision_config.spatial_merge_size, config.vision_config.tokens_per_second

    def grids(key: str, steps: Iterator[float]) -> Iterator[tuple[int, int, int, float]]:
        for (frames, height, width), step in zip(inputs.get(key, torch.empty(0, 3)).tolist(), steps, strict=False):
            yield frames, height // merge, width // merge, step

    # In float32 first, as the sampler holds them: the product is cut to a whole number.
    seconds = inputs.get("second_per_grid_ts", torch.empty(0)).float().tolist()
    of_clips = {
        IMAGE: grids("image_grid_thw", iter(lambda: 1.0, None)),
        VIDEO: grids("video_grid_thw", iter([s * rate for s in seconds])),
    }
    mask = inputs.get("attention_mask")
    return {"position_ids": rotary_positions(kinds, torch.ones_like(ids) if mask is None else mask, of_clips)}


class Qwen2_5VLAdapter:
    family = "qwen2_5_vl"
    placeholders: Mapping[str, str] = {"image": "image_token", "video": "video_token"}
    feature_keys: Mapping[str, tuple[str, ...]] = {
        "image": ("pixel_values", "image_grid_thw"),
        "video": ("pixel_values_videos", "video_grid_thw", "second_per_grid_ts"),
    }
    sampled_as: Mapping[str, str] = {}
    video_metadata = True
    least_sound_s = 0.0
    language_model = r"model\.language_model"
    parts: Mapping[str, str] = {
        "language_model": r"model\.language_model\..*|lm_head\..*",
        "vision_tower": r"model\.visual\.(?!merger\.).*",
        "projector": r"model\.visual\.merger\..*",
    }

    def load(self, path: Path, dtype: torch.dtype, device_map: str | None = None) -> PreTrainedModel:
        model = Qwen2_5_VLForConditionalGeneration.from_pretrained(str(path), dtype=dtype, device_map=device_map)
        complete_inputs(model, _number_positions)
        return model.eval()

    def architecture(self, path: Path) -> PreTrainedModel:
        return without_weights(Qwen2_5_VLForConditionalGeneration, path)

    def processor_kwargs(self, processor: ProcessorMixin) -> dict[str, Any]:
        return {"videos_kwargs": {"do_sample_frames": False}}

    def item_rows(
        self, processor: ProcessorMixin, key: str, outputs: Mapping[str, Any], kinds: Sequence[str]
    ) -> list[int]:
        grids = {"pixel_values": "image_grid_thw", "pixel_values_videos": "video_grid_thw"}
        return grid_rows(grids, key, outputs, len(kinds))

    def checkpoint_name(self, name: str) -> str:
        # The class nests the towers; released checkpoints keep the older flat names.
        if name.startswith("model.visual."):
            return name.removeprefix("model.")
        return "model." + name.removeprefix("model.language_model.") if name.startswith("model.") else name

    def checkpoint_tensors(self, name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
        yield self.checkpoint_name(name), tensor
