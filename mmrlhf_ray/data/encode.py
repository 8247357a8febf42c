"""Messages and media to token ids and features: the one place where a processor runs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import ProcessorMixin

from mmrlhf_ray.data.media import decode
from mmrlhf_ray.models import ModelAdapter, adapter_for, banned_token_ids, eos_token_ids, load_processor

Features = dict[str, np.ndarray]

CLIP_FPS = 2.0
"""Frames per second that clips are taken to have; Qwen's processors assume the same where nothing is said."""


@dataclass(frozen=True)
class RawMedia:
    """One undecoded clip."""

    media_id: str
    kind: str
    data: bytes


@dataclass(frozen=True)
class EncodedPrompt:
    """One prompt as the learner sees it."""

    token_ids: list[int]
    """Placeholders expanded by the processor."""
    collapsed_token_ids: list[int]
    """One placeholder per clip: what the sampler is given beside the raw media."""
    features: dict[str, Features]
    """media_id → the processor's tensors of that clip."""


@dataclass(frozen=True)
class Encoder:
    """A model family's processor with what is needed to use it."""

    adapter: ModelAdapter
    processor: ProcessorMixin
    eos_token_ids: tuple[int, ...]
    banned_token_ids: tuple[int, ...]

    @property
    def tokenizer(self) -> Any:
        return self.processor.tokenizer

    @property
    def sampling_rate(self) -> int:
        """Hz that audio is resampled to; families without audio never ask."""
        extractor = getattr(self.processor, "feature_extractor", None)
        return extractor.sampling_rate if extractor is not None else 16_000


def load_encoder(path: str | Path) -> Encoder:
    """Encoder of a model directory. Raises ModelError for a directory that cannot be used."""
    path = Path(path)
    adapter = adapter_for(path)
    processor = load_processor(path)
    return Encoder(adapter, processor, tuple(eos_token_ids(path)), tuple(banned_token_ids(processor, path)))


def media_arguments(encoder: Encoder, media: Sequence[RawMedia]) -> dict[str, list[Any]]:
    """Decoded media by kind, in prompt order."""
    decoded: dict[str, list[Any]] = {}
    for item in media:
        decoded.setdefault(item.kind, []).append(decode(item.kind, item.data, encoder.sampling_rate))
    return decoded


def clip_metadata(frames: np.ndarray) -> dict[str, Any]:
    """What processor and sampler are told of a decoded clip [frames, height, width, 3]: every frame was kept."""
    count = len(frames)
    return {
        "total_num_frames": count,
        "fps": CLIP_FPS,
        "duration": count / CLIP_FPS,
        "frames_indices": list(range(count)),
        "video_backend": "pyav",
    }


def encode_prompt(encoder: Encoder, messages: str, media: Sequence[RawMedia]) -> EncodedPrompt:
    """Run the processor on one prompt. `messages`: JSON as in the PROMPT table; `media` in prompt order.

    Raises ValueError when text contains control tokens, when the placeholders in the rendered prompt do not match
    the media kind by kind, or when the family has no such kind.
    """
    chat = json.loads(messages)
    _refuse_control_text(encoder, chat)
    rendered = encoder.processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    collapsed = encoder.tokenizer(rendered, add_special_tokens=False)["input_ids"]
    _check_placeholders(encoder, collapsed, media)
    decoded = media_arguments(encoder, media)
    arguments = {"image": "images", "audio": "audio", "video": "videos"}
    about = [clip_metadata(clip) for clip in decoded.get("video", [])] if encoder.adapter.video_metadata else []
    outputs = encoder.processor(
        text=[rendered],
        **{arguments[kind]: items for kind, items in decoded.items()},
        **({"video_metadata": about} if about else {}),
        **encoder.adapter.processor_kwargs(encoder.processor),
        return_tensors="np",
    )
    token_ids = [int(i) for i in outputs["input_ids"][0]]
    return EncodedPrompt(token_ids, list(collapsed), split_features(encoder.adapter, outputs, media))


def split_features(adapter: ModelAdapter, outputs: Mapping[str, Any], media: Sequence[RawMedia]) -> dict[str, Features]:
    """Divide the processor's tensors, which it returns per batch, among the clips they belong to."""
    features: dict[str, Features] = {item.media_id: {} for item in media}
    for kind in {item.kind for item in media}:
        ids = [item.media_id for item in media if item.kind == kind]
        for key in adapter.feature_keys[kind]:
            for media_id, part in zip(ids, _split(adapter, outputs, key, len(ids)), strict=True):
                features[media_id][key] = part
    return {media_id: _trim_audio(parts) for media_id, parts in features.items()}


def _split(adapter: ModelAdapter, outputs: Mapping[str, Any], key: str, count: int) -> list[np.ndarray]:
    values = np.asarray(outputs[key])
    if key in adapter.packed_by:
        ends = np.cumsum(np.asarray(outputs[adapter.packed_by[key]]).prod(-1))[:-1]
        return np.split(values, ends)
    return np.split(values, count)


def _trim_audio(parts: Features) -> Features:
    """Drop the frames that the extractor padded to its window; the mask says which are real."""
    if "feature_attention_mask" not in parts:
        return parts
    frames = int(parts["feature_attention_mask"].sum())
    return {key: value[..., :frames] for key, value in parts.items()}


def encode_response(encoder: Encoder, text: str, max_tokens: int | None = None) -> list[int]:
    """Token ids of a written response, closed by the token that ends a response."""
    ids = encoder.tokenizer(text, add_special_tokens=False)["input_ids"] + [encoder.eos_token_ids[0]]
    if max_tokens is not None and len(ids) > max_tokens:
        raise ValueError(
            f"response has {len(ids)} tokens, expected at most {max_tokens}; shorten it or raise the limit"
        )
    return ids


def encode_facts(encoder: Encoder, facts: str) -> list[int]:
    """Token ids of the ground truth that a reward model reads before the prompt."""
    return encoder.tokenizer(facts + "\n", add_special_tokens=False)["input_ids"] if facts else []


def decode_response(encoder: Encoder, token_ids: Sequence[int]) -> str:
    """Text of a response without control tokens."""
    return encoder.tokenizer.decode(list(token_ids), skip_special_tokens=True).strip()


def _refuse_control_text(encoder: Encoder, chat: list[dict[str, Any]]) -> None:
    control = [t.content for t in encoder.tokenizer.added_tokens_decoder.values() if t.special]
    for message in chat:
        content = message["content"]
        texts = [content] if isinstance(content, str) else [p["text"] for p in content if p["type"] == "text"]
        for token in control:
            if any(token in text for text in texts):
                raise ValueError(f"text contains the control token {token!r}, which only the chat template may write")


def _check_placeholders(encoder: Encoder, collapsed: Sequence[int], media: Sequence[RawMedia]) -> None:
    kinds = [item.kind for item in media]
    for kind in kinds:
        if kind not in encoder.adapter.placeholders:
            known = ", ".join(encoder.adapter.placeholders)
            raise ValueError(f"model family {encoder.adapter.family} takes {known}, got {kind}")
    for kind, attribute in encoder.adapter.placeholders.items():
        token = getattr(encoder.processor, attribute)
        found = list(collapsed).count(encoder.tokenizer.convert_tokens_to_ids(token))
        if found != kinds.count(kind):
            raise ValueError(
                f"the rendered prompt has {found} {kind} placeholder(s) for {kinds.count(kind)} {kind} clip(s); "
                "give one media part per clip, in order"
            )
