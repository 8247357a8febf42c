"""The families that have their own adapter: six values, and functions for what really differs."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import (
    Gemma3ForConditionalGeneration,
    InternVLForConditionalGeneration,
    PreTrainedModel,
    ProcessorMixin,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen3OmniMoeThinkerForConditionalGeneration,
    Qwen3VLForConditionalGeneration,
)
from transformers.models.qwen3_omni_moe.modeling_qwen3_omni_moe import _get_feat_extract_output_lengths

from mmrlhf_ray.models.families.clips import Tower, repeat_clips, repeat_rows, repeat_sounds
from mmrlhf_ray.models.families.family import Family, frames_as_given
from mmrlhf_ray.models.families.positions import IMAGE, VIDEO, Inputs, rotary_positions, runs, token_kinds
from mmrlhf_ray.models.families.shared import SharedRows

_QWEN_GRIDS = {"pixel_values": "image_grid_thw", "pixel_values_videos": "video_grid_thw"}
_QWEN_IMAGE = ("pixel_values", "image_grid_thw")
_QWEN_VIDEO = ("pixel_values_videos", "video_grid_thw")
_QWEN_TOWERS = {
    "pixel_values": Tower("get_image_features", repeat_clips),
    "pixel_values_videos": Tower("get_video_features", repeat_clips),
}


# Qwen2.5-VL: text, images and video.


def _number_positions(model: PreTrainedModel, inputs: Inputs) -> Inputs:
    """The class itself lets the text after a clip go on from the clip's rows and columns, however long it lasts, where
    the model was trained (and vLLM samples) with positions after its last frame."""
    config, ids = model.config, inputs["input_ids"]
    kinds = token_kinds(ids, {config.image_token_id: IMAGE, config.video_token_id: VIDEO})
    merge, rate = config.vision_config.spatial_merge_size, config.vision_config.tokens_per_second

    def grids(key: str, steps: Iterator[float]) -> Iterator[tuple[int, int, int, float]]:
        for (frames, height, width), step in zip(inputs.get(key, torch.empty(0, 3)).tolist(), steps, strict=False):
            yield frames, height // merge, width // merge, step

    # In float32 first, as the sampler holds them: the product is truncated to an integer.
    seconds = inputs.get("second_per_grid_ts", torch.empty(0)).float().tolist()
    of_clips = {
        IMAGE: grids("image_grid_thw", iter(lambda: 1.0, None)),
        VIDEO: grids("video_grid_thw", iter([s * rate for s in seconds])),
    }
    mask = inputs.get("attention_mask")
    return {"position_ids": rotary_positions(kinds, torch.ones_like(ids) if mask is None else mask, of_clips)}


QWEN2_5_VL = Family(
    family="qwen2_5_vl",
    model_class=Qwen2_5_VLForConditionalGeneration,
    placeholders={"image": "image_token", "video": "video_token"},
    feature_keys={"image": _QWEN_IMAGE, "video": (*_QWEN_VIDEO, "second_per_grid_ts")},
    language_model=r"model\.language_model",
    parts={
        "language_model": r"model\.language_model\..*|lm_head\..*",
        "vision_tower": r"model\.visual\.(?!merger\.).*",
        "projector": r"model\.visual\.merger\..*",
    },
    video_metadata=True,
    towers=_QWEN_TOWERS,
    shared_rows=SharedRows(lambda model, inputs: _number_positions(model, inputs)["position_ids"]),
    options=frames_as_given,
    grids=_QWEN_GRIDS,
    complete=_number_positions,
    # The class nests the towers; released checkpoints keep the older flat names.
    released={"model.visual.": "visual.", "model.language_model.": "model."},
)


# Qwen3-VL: text, images and video. Each pair of frames stands behind a text that says when it is shown.


def _mark_images_and_video(model: PreTrainedModel, inputs: Inputs) -> Inputs:
    """Without the marks the class numbers media positions as if they were text, without a word."""
    kinds = {model.config.image_token_id: IMAGE, model.config.video_token_id: VIDEO}
    return {"mm_token_type_ids": token_kinds(inputs["input_ids"], kinds)}


def _own_positions(model: PreTrainedModel, inputs: Inputs, **given: Any) -> Tensor | None:
    """As the class itself numbers plain rows."""
    shared = {name: inputs.get(name) for name in ("image_grid_thw", "video_grid_thw", "input_ids", "attention_mask")}
    positions: Tensor | None = model.base_model.compute_3d_position_ids(
        inputs_embeds=None, past_key_values=None, **shared, **given
    )
    return positions


def _positions_of_marked(model: PreTrainedModel, inputs: Inputs) -> Tensor | None:
    return _own_positions(model, inputs, **_mark_images_and_video(model, inputs))


QWEN3_VL = Family(
    family="qwen3_vl",
    model_class=Qwen3VLForConditionalGeneration,
    placeholders={"image": "image_token", "video": "video_token"},
    feature_keys={"image": _QWEN_IMAGE, "video": _QWEN_VIDEO},
    language_model=r"model\.language_model",
    parts={
        "language_model": r"model\.language_model\..*|lm_head\..*",
        "vision_tower": r"model\.visual\.(?!merger\.|deepstack_merger_list\.).*",
        "projector": r"model\.visual\.(merger|deepstack_merger_list)\..*",
    },
    video_metadata=True,
    towers=_QWEN_TOWERS,
    shared_rows=SharedRows(_positions_of_marked),
    options=frames_as_given,
    grids=_QWEN_GRIDS,
    complete=_mark_images_and_video,
)


# Qwen2.5-Omni and Qwen3-Omni: the thinker is trained; the talker is not.


def _sized_frames_as_given(processor: ProcessorMixin) -> dict[str, Any]:
    # The processor class has its own video size, which would take precedence over the directory's.
    return {"videos_kwargs": {"size": dict(processor.video_processor.size), "do_sample_frames": False}}


def _after_two_convolutions(owner: nn.Module, frames: Tensor) -> Tensor:
    lengths: Tensor = owner.audio_tower._get_feat_extract_output_lengths(frames)[1]
    return lengths


def _after_chunks(owner: nn.Module, frames: Tensor) -> Tensor:
    lengths: Tensor = _get_feat_extract_output_lengths(frames, owner.audio_tower.n_window)
    return lengths


def _single_experts(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The class stacks the experts of a layer; checkpoints have each by itself."""
    owner, _, leaf = name.rpartition(".")
    if not owner.endswith(".experts"):
        yield name, tensor
        return
    pieces = ("gate_proj", "up_proj") if leaf == "gate_up_proj" else (leaf,)
    for number, expert in enumerate(tensor):
        for piece, weight in zip(pieces, expert.chunk(len(pieces)), strict=True):
            yield f"{owner}.{number}.{piece}.weight", weight.clone()  # files need separate tensors


def _positions_with_sounds(model: PreTrainedModel, inputs: Inputs) -> Tensor | None:
    mask = inputs.get("feature_attention_mask")
    return _own_positions(
        model,
        inputs,
        audio_feature_lengths=None if mask is None else mask.sum(1),
        video_second_per_grid=inputs.get("video_second_per_grid"),
    )


_OMNI_PLACEHOLDERS = {"image": "image_token", "audio": "audio_token", "video": "video_token"}
_OMNI_FEATURES = {
    "image": _QWEN_IMAGE,
    "audio": ("input_features", "feature_attention_mask"),
    "video": (*_QWEN_VIDEO, "video_second_per_grid"),
}

QWEN2_5_OMNI = Family(
    family="qwen2_5_omni",
    model_class=Qwen2_5OmniThinkerForConditionalGeneration,
    placeholders=_OMNI_PLACEHOLDERS,
    feature_keys=_OMNI_FEATURES,
    language_model=r"(thinker\.)?model",
    parts={
        "language_model": r"model\..*|lm_head\..*",
        "vision_tower": r"visual\.(?!merger\.).*",
        "audio_tower": r"audio_tower\.(?!proj\.).*",
        "projector": r"visual\.merger\..*|audio_tower\.proj\..*",
    },
    towers=_QWEN_TOWERS | {"input_features": Tower("get_audio_features", repeat_sounds(_after_two_convolutions))},
    shared_rows=SharedRows(_positions_with_sounds),
    options=_sized_frames_as_given,
    grids=_QWEN_GRIDS,
    released={"": "thinker."},
)

QWEN3_OMNI = Family(
    family="qwen3_omni_moe",
    model_class=Qwen3OmniMoeThinkerForConditionalGeneration,
    placeholders=_OMNI_PLACEHOLDERS,
    feature_keys=_OMNI_FEATURES,
    language_model=r"(thinker\.)?model",
    parts={
        "language_model": r"model\..*|lm_head\..*",
        "vision_tower": r"visual\.(?!merger\.|merger_list\.).*",
        "audio_tower": r"audio_tower\.(?!proj[12]\.).*",
        "projector": r"visual\.(merger|merger_list)\..*|audio_tower\.proj[12]\..*",
    },
    least_sound_s=1.0,  # a chunk of the audio tower
    towers=_QWEN_TOWERS | {"input_features": Tower("get_audio_features", repeat_sounds(_after_chunks))},
    shared_rows=SharedRows(_positions_with_sounds),
    options=_sized_frames_as_given,
    grids=_QWEN_GRIDS,
    released={"": "thinker."},
    pieces=_single_experts,
)


# Gemma 3: text and images. InternVL in Hugging Face format: text, images and video. Released checkpoints of both keep
# the names of an older class.

_TOWER_PARTS = {
    "language_model": r"model\.language_model\..*|lm_head\..*",
    "vision_tower": r"model\.vision_tower\..*",
    "projector": r"model\.multi_modal_projector\..*",
}
_ROW_TOWER = {"pixel_values": Tower("get_image_features", repeat_rows)}
_RELEASED = {
    "model.language_model.": "language_model.model.",
    "model.multi_modal_projector.": "multi_modal_projector.",
    "lm_head.": "language_model.lm_head.",
}


def _mark_images(model: PreTrainedModel, inputs: Inputs) -> Inputs:
    """An image's tokens see each other in both directions. Without the marks the class reads them as text, from left
    to right, without a word."""
    return {"token_type_ids": token_kinds(inputs["input_ids"], {model.config.image_token_id: IMAGE})}


def _images_both_ways(model: PreTrainedModel, token_ids: Tensor) -> Tensor:
    return runs(token_ids == model.config.image_token_id)


def _images_in_one_piece(processor: ProcessorMixin) -> dict[str, Any]:
    # Crops of an image would make its tokens depend on its shape, and the sampler says that it attends to them
    # otherwise than the model was trained to.
    return {"images_kwargs": {"do_pan_and_scan": False}}


GEMMA3 = Family(
    family="gemma3",
    model_class=Gemma3ForConditionalGeneration,
    placeholders={"image": "boi_token"},
    feature_keys={"image": ("pixel_values",)},
    language_model=r"model\.language_model",
    parts=_TOWER_PARTS,
    towers=_ROW_TOWER,
    shared_rows=SharedRows(both_ways=_images_both_ways),
    options=_images_in_one_piece,
    complete=_mark_images,
    released={"model.vision_tower.": "vision_tower.vision_model.", **_RELEASED},
)


def _crops_and_frames(processor: ProcessorMixin, outputs: Mapping[str, Any], kinds: Sequence[str]) -> list[int]:
    """An image has a row for each of its crops, which share one run of placeholders; a video has one for each of its
    frames, which have a run each. The processor takes videos of one length only."""
    ids = np.asarray(outputs["input_ids"]).reshape(-1).tolist()
    runs = [len(list(run)) for is_media, run in groupby(i == processor.image_token_id for i in ids) if is_media]
    frames = (len(runs) - kinds.count("image")) // max(1, kinds.count("video"))
    rows, at = [], 0
    for kind in kinds:
        taken = 1 if kind == "image" else frames
        rows.append(sum(runs[at : at + taken]) // processor.image_seq_length)
        at += taken
    return rows


INTERNVL = Family(
    family="internvl",
    model_class=InternVLForConditionalGeneration,
    placeholders={"image": "image_token", "video": "video_token"},
    feature_keys={"image": ("pixel_values",), "video": ("pixel_values",)},
    language_model=r"model\.language_model",
    parts=_TOWER_PARTS,
    towers=_ROW_TOWER,
    shared_rows=SharedRows(),
    sampled_as={"video_token": "image_token"},
    options=frames_as_given,
    clip_rows=_crops_and_frames,
    released={"model.vision_tower.": "vision_tower.", **_RELEASED},
)

KNOWN: Mapping[str, Family] = {
    value.family: value for value in (QWEN2_5_VL, QWEN3_VL, QWEN2_5_OMNI, QWEN3_OMNI, GEMMA3, INTERNVL)
}
"""`model_type` of config.json → the family."""
