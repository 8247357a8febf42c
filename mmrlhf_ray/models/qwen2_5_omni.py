"""Qwen2.5-Omni: the thinker is trained; the talker is not."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, ProcessorMixin, Qwen2_5OmniThinkerForConditionalGeneration


class Qwen2_5OmniAdapter:
    family = "qwen2_5_omni"
    placeholders: Mapping[str, str] = {"image": "image_token", "audio": "audio_token", "video": "video_token"}
    feature_keys: Mapping[str, tuple[str, ...]] = {
        "image": ("pixel_values", "image_grid_thw"),
        "audio": ("input_features", "feature_attention_mask"),
        "video": ("pixel_values_videos", "video_grid_thw", "video_second_per_grid"),
    }
    packed_by: Mapping[str, str] = {"pixel_values": "image_grid_thw", "pixel_values_videos": "video_grid_thw"}
    video_metadata = False
    language_model = r"(thinker\.)?model"

    def load(self, path: Path, dtype: torch.dtype, device_map: str | None = None) -> PreTrainedModel:
        model = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(
            str(path), dtype=dtype, device_map=device_map
        )
        return model.eval()

    def processor_kwargs(self, processor: ProcessorMixin) -> dict[str, Any]:
        # The processor class has a video size of its own that would win over the directory's.
        return {"videos_kwargs": {"size": dict(processor.video_processor.size), "do_sample_frames": False}}

    def checkpoint_name(self, name: str) -> str:
        return f"thinker.{name}"
