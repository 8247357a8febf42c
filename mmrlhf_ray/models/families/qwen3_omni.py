"""Qwen3-Omni: the thinker is trained; the talker is not."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, ProcessorMixin, Qwen3OmniMoeThinkerForConditionalGeneration

from mmrlhf_ray.models.adapter import grid_rows, without_weights


class Qwen3OmniAdapter:
    family = "qwen3_omni_moe"
    placeholders: Mapping[str, str] = {"image": "image_token", "audio": "audio_token", "video": "video_token"}
    feature_keys: Mapping[str, tuple[str, ...]] = {
        "image": ("pixel_values", "image_grid_thw"),
        "audio": ("input_features", "feature_attention_mask"),
        "video": ("pixel_values_videos", "video_grid_thw", "video_second_per_grid"),
    }
    sampled_as: Mapping[str, str] = {}
    video_metadata = False
    least_sound_s = 1.0  # a chunk of the audio tower
    language_model = r"(thinker\.)?model"
    parts: Mapping[str, str] = {
        "language_model": r"model\..*|lm_head\..*",
        "vision_tower": r"visual\.(?!merger\.|merger_list\.).*",
        "audio_tower": r"audio_tower\.(?!proj[12]\.).*",
        "projector": r"visual\.(merger|merger_list)\..*|audio_tower\.proj[12]\..*",
    }

    def load(self, path: Path, dtype: torch.dtype, device_map: str | None = None) -> PreTrainedModel:
        model = Qwen3OmniMoeThinkerForConditionalGeneration.from_pretrained(
            str(path), dtype=dtype, device_map=device_map
        )
        return model.eval()

    def architecture(self, path: Path) -> PreTrainedModel:
        return without_weights(Qwen3OmniMoeThinkerForConditionalGeneration, path)

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
        # The class stacks the experts of a layer; checkpoints have each by itself.
        name = self.checkpoint_name(name)
        owner, _, leaf = name.rpartition(".")
        if not owner.endswith(".experts"):
            yield name, tensor
            return
        pieces = ("gate_proj", "up_proj") if leaf == "gate_up_proj" else (leaf,)
        for number, expert in enumerate(tensor):
            for piece, weight in zip(pieces, expert.chunk(len(pieces)), strict=True):
                yield f"{owner}.{number}.{piece}.weight", weight.clone()  # files want tensors of their own
