"""Qwen2.5-VL: text, images and video."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, ProcessorMixin, Qwen2_5_VLForConditionalGeneration


def _tell_kinds(model: PreTrainedModel, args: tuple[Any, ...], inputs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Each position's kind (0 text, 1 image, 2 video); without it the class numbers media positions as if they were
    text, and says nothing."""
    ids, config = inputs["input_ids"], model.config
    kinds = (ids == config.image_token_id).int() + 2 * (ids == config.video_token_id).int()
    return args, inputs | {"mm_token_type_ids": kinds}


class Qwen2_5VLAdapter:
    family = "qwen2_5_vl"
    placeholders: Mapping[str, str] = {"image": "image_token", "video": "video_token"}
    feature_keys: Mapping[str, tuple[str, ...]] = {
        "image": ("pixel_values", "image_grid_thw"),
        "video": ("pixel_values_videos", "video_grid_thw", "second_per_grid_ts"),
    }
    packed_by: Mapping[str, str] = {"pixel_values": "image_grid_thw", "pixel_values_videos": "video_grid_thw"}
    video_metadata = True
    language_model = r"model\.language_model"

    def load(self, path: Path, dtype: torch.dtype, device_map: str | None = None) -> PreTrainedModel:
        model = Qwen2_5_VLForConditionalGeneration.from_pretrained(str(path), dtype=dtype, device_map=device_map)
        model.register_forward_pre_hook(_tell_kinds, with_kwargs=True)
        return model.eval()

    def processor_kwargs(self, processor: ProcessorMixin) -> dict[str, Any]:
        return {"videos_kwargs": {"do_sample_frames": False}}

    def checkpoint_name(self, name: str) -> str:
        # The class nests the towers; released checkpoints keep the older flat names.
        if name.startswith("model.visual."):
            return name.removeprefix("model.")
        return "model." + name.removeprefix("model.language_model.") if name.startswith("model.") else name
