"""Qwen2.5-Omni: the thinker is trained; the talker is not."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, ProcessorMixin, Qwen2_5OmniThinkerForConditionalGeneration

from mmrlhf_ray.models.adapter import grid_rows, without_weights


class Qwen2_5OmniAdapter:
    family = "qwen2_5_omni"
    placeholders: Mapping[str, str] = {"image": "image_token", "audio": "audio_token", "video": "video_token"}
    feature_keys: Mapping[str, tuple[str, ...]] = {
        "image": ("pixel_values", "image_grid_thw"),
        "audio": ("input_features", "feature_attention_mask"),
        "video": ("pixel_values_videos", "video_grid_thw", "video_second_per_grid"),
    }
    sampled_as: Mapping[str, str] = {}
    video_metadata = False
    least_sound_s = 0.0
    language_model = r"(thinker\.)?model"
    parts: Mapping[str, str] = {
        "language_model": r"model\..*|lm_head\..*",
        "vision_tower": r"visual\.(?!merger\.).*",
        "audio_tower": r"audio_tower\.(?!proj\.).*",
        "projector": r"visual\.merger\..*|audio_tower\.proj\..*",
    }

    def load(self, path: Path, dtype: torch.dtype, device_map: str | None = None) -> PreTrainedModel:
        model = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(
            str(path), dtype=dtype, device_map=device_map
        )
        return model.eval()

    def architecture(self, path: Path) -> PreTrainedModel:
        return without_weights(Qwen2_5OmniThinkerForConditionalGeneration, path)

    def processor_kwargs(self, processor: ProcessorMixin) -> dict[str, Any]:
        # The processor class has a video size of its own that would win over the directory's.
        return {"videos_kwargs": {"size": dict(processor.video_processor.size), "do_sample_frames": False}}

    def item_rows(
        self, processor: ProcessorMixin, key: str, outputs: Mapping[str, Any], kinds: Sequence[str]
    ) -> list[int]:
        grids = {"pixel_values": "image_grid_thw", "pixel_values_videos": "video_grid_thw"}
        return grid_rows(grids, key, outputs, len(kinds))

    def checkpoint_name(self, name: str) -> str:
        return f"thinker.{name}"

    def checkpoint_tensors(self, name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
        yield self.checkpoint_name(name), tensor
