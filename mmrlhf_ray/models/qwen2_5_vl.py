"""Qwen2.5-VL: text, images and video."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, ProcessorMixin, Qwen2_5_VLForConditionalGeneration


class Qwen2_5VLAdapter:
    family = "qwen2_5_vl"
    placeholders: Mapping[str, str] = {"image": "image_token", "video": "video_token"}
    feature_keys: Mapping[str, tuple[str, ...]] = {
        "image": ("pixel_values", "image_grid_thw"),
        "video": ("pixel_values_videos", "video_grid_thw", "second_per_grid_ts"),
    }
    packed_by: Mapping[str, str] = {"pixel_values": "image_grid_thw", "pixel_values_videos": "video_grid_thw"}

    def load(self, path: Path, dtype: torch.dtype) -> PreTrainedModel:
        return Qwen2_5_VLForConditionalGeneration.from_pretrained(str(path), dtype=dtype).eval()

    def processor_kwargs(self, processor: ProcessorMixin) -> dict[str, Any]:
        return {"videos_kwargs": {"do_sample_frames": False}}

    def checkpoint_name(self, name: str) -> str:
        # The class nests the towers; released checkpoints keep the older flat names.
        if name.startswith("model.visual."):
            return name.removeprefix("model.")
        return "model." + name.removeprefix("model.language_model.") if name.startswith("model.") else name
