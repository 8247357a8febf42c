"""Qwen3-VL: text, images and video. Each pair of frames stands behind a text that says when it is shown."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, ProcessorMixin, Qwen3VLForConditionalGeneration

from mmrlhf_ray.models.adapter import grid_rows, without_weights
from mmrlhf_ray.models.families.positions import IMAGE, VIDEO, Inputs, complete_inputs, token_kinds


def _tell_kinds(model: PreTrainedModel, inputs: Inputs) -> Inputs:
    """Without them the class numbers media positions as if they were text, and says nothing."""
    config = model.config
    kinds = {config.image_token_id: IMAGE, config.video_token_id: VIDEO}
    return {"mm_token_type_ids": token_kinds(inputs["input_ids"], kinds)}


class Qwen3VLAdapter:
    family = "qwen3_vl"
    placeholders: Mapping[str, str] = {"image": "image_token", "video": "video_token"}
    feature_keys: Mapping[str, tuple[str, ...]] = {
        "image": ("pixel_values", "image_grid_thw"),
        "video": ("pixel_values_videos", "video_grid_thw"),
    }
    sampled_as: Mapping[str, str] = {}
    video_metadata = True
    least_sound_s = 0.0
    language_model = r"model\.language_model"
    parts: Mapping[str, str] = {
        "language_model": r"model\.language_model\..*|lm_head\..*",
        "vision_tower": r"model\.visual\.(?!merger\.|deepstack_merger_list\.).*",
        "projector": r"model\.visual\.(merger|deepstack_merger_list)\..*",
    }

    def load(self, path: Path, dtype: torch.dtype, device_map: str | None = None) -> PreTrainedModel:
        model = Qwen3VLForConditionalGeneration.from_pretrained(str(path), dtype=dtype, device_map=device_map)
        complete_inputs(model, _tell_kinds)
        return model.eval()

    def architecture(self, path: Path) -> PreTrainedModel:
        return without_weights(Qwen3VLForConditionalGeneration, path)

    def processor_kwargs(self, processor: ProcessorMixin) -> dict[str, Any]:
        return {"videos_kwargs": {"do_sample_frames": False}}

    def item_rows(
        self, processor: ProcessorMixin, key: str, outputs: Mapping[str, Any], kinds: Sequence[str]
    ) -> list[int]:
        grids = {"pixel_values": "image_grid_thw", "pixel_values_videos": "video_grid_thw"}
        return grid_rows(grids, key, outputs, len(kinds))

    def checkpoint_name(self, name: str) -> str:
        return name

    def checkpoint_tensors(self, name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
        yield self.checkpoint_name(name), tensor
