"""InternVL in Hugging Face format (`InternVLForConditionalGeneration`): text, images and video."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import InternVLForConditionalGeneration, PreTrainedModel, ProcessorMixin

from mmrlhf_ray.models.adapter import without_weights


class InternVLAdapter:
    family = "internvl"
    placeholders: Mapping[str, str] = {"image": "image_token", "video": "video_token"}
    feature_keys: Mapping[str, tuple[str, ...]] = {"image": ("pixel_values",), "video": ("pixel_values",)}
    sampled_as: Mapping[str, str] = {"video_token": "image_token"}
    video_metadata = False
    least_sound_s = 0.0
    language_model = r"model\.language_model"
    parts: Mapping[str, str] = {
        "language_model": r"model\.language_model\..*|lm_head\..*",
        "vision_tower": r"model\.vision_tower\..*",
        "projector": r"model\.multi_modal_projector\..*",
    }

    def load(self, path: Path, dtype: torch.dtype, device_map: str | None = None) -> PreTrainedModel:
        model = InternVLForConditionalGeneration.from_pretrained(str(path), dtype=dtype, device_map=device_map)
        return model.eval()

    def architecture(self, path: Path) -> PreTrainedModel:
        return without_weights(InternVLForConditionalGeneration, path)

    def processor_kwargs(self, processor: ProcessorMixin) -> dict[str, Any]:
        return {"videos_kwargs": {"do_sample_frames": False}}

    def item_rows(
        self, processor: ProcessorMixin, key: str, outputs: Mapping[str, Any], kinds: Sequence[str]
    ) -> list[int]:
        """An image has a row for each of its crops, which share one run of placeholders; a video has one for each of
        its frames, which have a run each. The processor takes videos of one length only."""
        ids = np.asarray(outputs["input_ids"]).reshape(-1).tolist()
        runs = [len(list(run)) for is_media, run in groupby(i == processor.image_token_id for i in ids) if is_media]
        frames = (len(runs) - kinds.count("image")) // max(1, kinds.count("video"))
        rows, at = [], 0
        for kind in kinds:
            taken = 1 if kind == "image" else frames
            rows.append(sum(runs[at : at + taken]) // processor.image_seq_length)
            at += taken
        return rows

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
    "model.vision_tower.": "vision_tower.",
    "model.multi_modal_projector.": "multi_modal_projector.",
    "lm_head.": "language_model.lm_head.",
}
