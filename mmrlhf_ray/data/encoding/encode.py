"""Messages and media to token ids and features: the one place where a processor runs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmrlhf_ray.config.base import MostMedia
from mmrlhf_ray.config.data import DataConfig
from mmrlhf_ray.data.media import Clip, MediaRow
from mmrlhf_ray.data.media.decode_pool import DecodeSettings, decode_pool
from mmrlhf_ray.models import ModelAdapter, SpecialTokens, adapter_for, load_processor, special_tokens

if TYPE_CHECKING:
    from transformers import ProcessorMixin

Features = dict[str, np.ndarray]

_ARGUMENTS = {"image": "images", "audio": "audio", "video": "videos"}
_SOUND_FRAMES = "input_features"
"""Key of a sound's spectrogram […, frames] in every family that takes sounds."""


@dataclass(frozen=True)
class RawMedia:
    """One undecoded clip."""

    media_id: str
    kind: str
    data: bytes

    @classmethod
    def of(cls, row: MediaRow) -> "RawMedia":
        """A row of the MEDIA table."""
        return cls(row["media_id"], row["kind"], row["data"])


@dataclass(frozen=True)
class EncodedPrompt:
    """One prompt as the learner sees it."""

    token_ids: list[int]
    """Placeholders expanded by the processor."""
    collapsed_token_ids: list[int]
    """One placeholder per clip: what the sampler is given with the raw media."""
    features: dict[str, Features]
    """media_id → the processor's tensors of that clip."""


@dataclass(frozen=True)
class Encoder:
    """A model family's processor with what is needed to use it."""

    adapter: ModelAdapter
    processor: "ProcessorMixin"
    special: SpecialTokens
    decoding: DecodeSettings = field(default_factory=DecodeSettings)
    tools: Sequence[Mapping[str, Any]] = ()
    """JSON schemas of the tools that the chat template describes in every prompt."""

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """End a response; the first closes written ones."""
        return self.special.eos

    @property
    def banned_token_ids(self) -> tuple[int, ...]:
        """Never sampled."""
        return self.special.banned

    @property
    def tokenizer(self) -> Any:
        return self.processor.tokenizer

    @property
    def chat_template(self) -> str:
        return str(self.processor.chat_template or self.tokenizer.chat_template or "")

    def rendered(self, chat: Sequence[Mapping[str, Any]], *, ask: bool) -> str:
        """The chat as the template writes it; `ask`: ready for a turn of the assistant."""
        given = {"tools": list(self.tools)} if self.tools else {}
        text: str = self.processor.apply_chat_template(list(chat), tokenize=False, add_generation_prompt=ask, **given)
        return text

    @property
    def sampling_rate(self) -> int:
        """Hz that audio is resampled to; families without audio never ask."""
        extractor = getattr(self.processor, "feature_extractor", None)
        return extractor.sampling_rate if extractor is not None else 16_000

    @property
    def written_as(self) -> dict[int, int]:
        """Token that the sampler leaves in an expanded prompt → the processor's for the same thing."""
        ids = self.tokenizer.convert_tokens_to_ids
        return {
            ids(getattr(self.processor, sampled)): ids(getattr(self.processor, written))
            for sampled, written in self.adapter.sampled_as.items()
        }


def load_encoder(
    path: str | Path,
    data: DataConfig | None = None,
    *,
    allowed: Sequence[str] = (),
    tools: Sequence[Mapping[str, Any]] = (),
    unverified: bool = False,
) -> Encoder:
    """Encoder of a model directory that decodes media as `data` says. `allowed`: special tokens that texts and
    responses may hold (`sampling.allow_tokens`). `tools`: JSON schemas of those that prompts describe. Raises
    ModelError for a directory that cannot be used, and for a token that cannot be allowed; `unverified` as in
    adapter_for()."""
    path = Path(path)
    adapter = adapter_for(path, unverified=unverified)
    processor = load_processor(path)
    special = special_tokens(adapter, processor, path, allowed)
    return Encoder(adapter, processor, special, DecodeSettings.of(data), tools)


def media_arguments(encoder: Encoder, media: Sequence[RawMedia]) -> dict[str, list[Any]]:
    """Decoded media by kind, in prompt order: images, arrays of samples, Clips. Raises ValueError."""
    pool = decode_pool(encoder.decoding)
    decoded: dict[str, list[Any]] = {}
    for item, found in zip(media, pool.decode([(m.kind, m.data) for m in media], encoder.sampling_rate), strict=True):
        heard = item.kind == "audio"
        decoded.setdefault(item.kind, []).append(_filled_up(encoder, np.asarray(found)) if heard else found)
    return decoded


def _filled_up(encoder: Encoder, samples: np.ndarray) -> np.ndarray:
    """With as much silence behind it as the family wants."""
    least = encoder.adapter.least_sound_s
    if not least:
        return samples
    hop = encoder.processor.feature_extractor.hop_length
    hops = max(-(-len(samples) // hop), ceil(least * encoder.sampling_rate / hop))
    return np.pad(samples, (0, hops * hop - len(samples)))


def processor_arguments(encoder: Encoder, media: Sequence[RawMedia]) -> dict[str, Any]:
    """Arguments of the processor other than the text: decoded media, and how to take them. Raises ValueError."""
    decoded = media_arguments(encoder, media)
    clips = decoded.get("video", [])
    given: dict[str, Any] = {_ARGUMENTS[kind]: items for kind, items in decoded.items()}
    if clips:
        given["videos"] = [clip.frames for clip in clips]
        if encoder.adapter.video_metadata:
            given["video_metadata"] = [clip_metadata(clip) for clip in clips]
    return given | processor_kwargs(encoder)


def processor_kwargs(encoder: Encoder) -> dict[str, Any]:
    """Keyword arguments that learner and sampler both pass to the processor.

    A family whose processor is told nothing of single clips takes one frame rate for all of them: `data.video.fps`,
    or its own default.
    """
    given = encoder.adapter.processor_kwargs(encoder.processor)
    fps = encoder.decoding.video.fps
    if fps is None or encoder.adapter.video_metadata or "video" not in encoder.adapter.placeholders:
        return given
    return given | {"videos_kwargs": given.get("videos_kwargs", {}) | {"fps": fps}}


def clip_metadata(clip: Clip) -> dict[str, Any]:
    """Metadata of a decoded clip for processor and sampler: when its frames are on display."""
    return {
        "total_num_frames": clip.total,
        "fps": clip.fps,
        "duration": clip.total / clip.fps,
        "frames_indices": list(clip.indices),
        "video_backend": "pyav",
    }


def encode_prompt(encoder: Encoder, messages: str, media: Sequence[RawMedia]) -> EncodedPrompt:
    """Run the processor on one prompt. `messages`: JSON as in the PROMPT table; `media` in prompt order.

    Raises ValueError when text contains control tokens, when the placeholders in the rendered prompt do not match
    the media kind by kind, when the family has no such kind, or when a sound is too long or short for it.
    """
    chat = json.loads(messages)
    refuse_control_text(encoder, chat)
    rendered, collapsed = render(encoder, chat)
    encoded = encode_rendered(encoder, rendered, collapsed, media)
    return replace(encoded, token_ids=_started(encoder, encoded.token_ids))


def encode_rendered(encoder: Encoder, rendered: str, collapsed: list[int], media: Sequence[RawMedia]) -> EncodedPrompt:
    """Run the processor on what a chat template has written, without BOS before it. `collapsed`: its ids with one
    placeholder per clip. Raises ValueError as encode_prompt()."""
    _check_placeholders(encoder, collapsed, media)
    arguments = processor_arguments(encoder, media)
    plain = {"add_special_tokens": False}
    outputs = encoder.processor(text=[rendered], text_kwargs=plain, **arguments, return_tensors="pt")
    token_ids = [int(i) for i in outputs["input_ids"][0]]
    encoded = EncodedPrompt(token_ids, collapsed, split_features(encoder, outputs, media))
    _check_sounds(encoder, encoded, [item.media_id for item in media if item.kind == "audio"], arguments)
    return encoded


def render(encoder: Encoder, chat: list[dict[str, Any]]) -> tuple[str, list[int]]:
    """The chat as the template writes it, ready to be answered, and its ids with one placeholder per clip."""
    rendered = encoder.rendered(chat, ask=True)
    return rendered, _started(encoder, encoder.tokenizer(rendered, add_special_tokens=False)["input_ids"])


def _started(encoder: Encoder, token_ids: Sequence[int]) -> list[int]:
    """With the tokenizer's BOS, unless the template has written it."""
    start = list(encoder.special.start)
    return list(token_ids) if list(token_ids[: len(start)]) == start else start + list(token_ids)


def _check_sounds(
    encoder: Encoder, encoded: EncodedPrompt, media_ids: Sequence[str], arguments: Mapping[str, Any]
) -> None:
    """Raises ValueError for a sound that the processor cut off, or that is so short that it became no token."""
    if not media_ids:
        return
    rate, hop = encoder.sampling_rate, encoder.processor.feature_extractor.hop_length
    sounds: list[np.ndarray] = arguments[_ARGUMENTS["audio"]]
    for media_id, samples in zip(media_ids, sounds, strict=True):
        kept = encoded.features[media_id][_SOUND_FRAMES].shape[-1] * hop
        if len(samples) >= kept + hop:  # the processor counts full hops
            raise ValueError(
                f"audio has {len(samples) / rate:g} s, of which the model's processor takes {kept / rate:g} s; "
                "cut it into shorter sounds"
            )
    token = encoder.tokenizer.convert_tokens_to_ids(getattr(encoder.processor, encoder.adapter.placeholders["audio"]))
    places = [0, *(int(i == token) for i in encoded.token_ids)]
    if np.count_nonzero(np.diff(places) == 1) < len(media_ids):
        shortest = min(len(samples) for samples in sounds) / rate
        raise ValueError(f"audio of {shortest:.3g} s is so short that it becomes no token; give longer sounds")


def split_features(encoder: Encoder, outputs: Mapping[str, Any], media: Sequence[RawMedia]) -> dict[str, Features]:
    """Divide the processor's tensors, which it returns per batch, among the clips they belong to."""
    adapter, features = encoder.adapter, dict[str, Features]({item.media_id: {} for item in media})
    for key in dict.fromkeys(key for item in media for key in adapter.feature_keys[item.kind]):
        owners = [item for item in media if key in adapter.feature_keys[item.kind]]
        rows = adapter.item_rows(encoder.processor, key, outputs, [item.kind for item in owners])
        values = np.asarray(outputs[key])
        if sum(rows) != len(values):
            raise ValueError(f"the processor returned {len(values)} rows of {key} for clips that have {rows}")
        for item, part in zip(owners, np.split(values, np.cumsum(rows)[:-1]), strict=True):
            features[item.media_id][key] = part
    return {media_id: _trim_audio(parts) for media_id, parts in features.items()}


def _trim_audio(parts: Features) -> Features:
    """Drop the frames that the extractor padded to its window; the mask says which are real."""
    if "feature_attention_mask" not in parts:
        return parts
    frames = int(parts["feature_attention_mask"].sum())
    return {key: value[..., :frames] for key, value in parts.items()}


def encode_response(encoder: Encoder, text: str, max_tokens: int | None = None, *, what: str = "response") -> list[int]:
    """Token ids of a written response, closed once by the token that the chat template writes after an assistant's
    turn, whether the text already ends with a closing token or not.

    Raises ValueError, which calls it `what`, for a closing token within the text, for media placeholders and turn
    markers, and for more than `max_tokens`.
    """
    ids = encoder.tokenizer(without_end(encoder, text), add_special_tokens=False)["input_ids"]
    refused = encoder.special.structural.union(encoder.special.eos).intersection(ids)
    if refused:
        token = encoder.tokenizer.convert_ids_to_tokens(min(refused))
        raise ValueError(
            f"{what} contains the control token {token!r}, which stands for media, turns or the end of a response; "
            "take it out of the text"
        )
    ids = [*ids, encoder.eos_token_ids[0]]
    if max_tokens is not None and len(ids) > max_tokens:
        raise ValueError(f"{what} has {len(ids)} tokens, expected at most {max_tokens}; shorten it or raise the limit")
    return ids


def without_end(encoder: Encoder, text: str) -> str:
    """`text` without the closing tokens at its end and the white space after them."""
    ends = tuple(encoder.tokenizer.convert_ids_to_tokens(list(encoder.special.eos)))
    while (bare := text.rstrip()).endswith(ends):
        text = bare.removesuffix(next(end for end in ends if bare.endswith(end)))
    return text


def facts_of(extras: str, column: str | None) -> str:
    """The text of `extras[column]`, or "" where no column is configured. Raises KeyError where it is missing."""
    return "" if column is None else str(json.loads(extras)[column])


def encode_facts(encoder: Encoder, facts: str) -> list[int]:
    """Token ids of the ground truth that a reward model reads before the prompt."""
    return encoder.tokenizer(facts + "\n", add_special_tokens=False)["input_ids"] if facts else []


def after_start(facts: Sequence[int], prompt: Sequence[int], start: Sequence[int]) -> list[int]:
    """What a reward model reads before a response: BOS, where the prompt begins with `start`, the facts, the prompt."""
    begun = len(start) if list(prompt[: len(start)]) == list(start) else 0
    return [*prompt[:begun], *facts, *prompt[begun:]]


def decode_response(encoder: Encoder, token_ids: Sequence[int]) -> str:
    """Text of a response without control tokens, other than those that may be sampled."""
    silent = {*encoder.special.banned, *encoder.special.eos}
    return encoder.tokenizer.decode([i for i in token_ids if i not in silent], skip_special_tokens=False).strip()


def token_texts(encoder: Encoder, token_ids: Sequence[int]) -> list[str]:
    """Text of each token, control tokens included. A token that is a part of a character reads `\ufffd`."""
    before = encoder.eos_token_ids[0]  # some tokenizers leave out a space that a text begins with
    decode = encoder.tokenizer.decode
    start = len(decode([before], skip_special_tokens=False, clean_up_tokenization_spaces=False))
    texts = {
        token: decode([before, token], skip_special_tokens=False, clean_up_tokenization_spaces=False)[start:]
        for token in set(token_ids)
    }
    return [texts[token] for token in token_ids]


def refuse_control_text(encoder: Encoder, chat: list[dict[str, Any]]) -> None:
    """Raise ValueError for text that contains a control token: turns and media are the chat template's to write."""
    refused = {*encoder.special.banned, *encoder.special.eos}
    control = [t.content for i, t in encoder.tokenizer.added_tokens_decoder.items() if t.special and i in refused]
    for message in chat:
        content = message["content"]
        texts = [content] if isinstance(content, str) else [p["text"] for p in content if p["type"] == "text"]
        for token in control:
            if any(token in text for text in texts):
                raise ValueError(f"text contains the control token {token!r}, which only the chat template may write")


def too_many_media(kinds: Sequence[str], most: MostMedia) -> str | None:
    """Why a prompt that shows clips of these kinds cannot be sampled from, or None."""
    for kind in dict.fromkeys(kinds):
        if kinds.count(kind) > most.clips:
            return f"the prompt has {kinds.count(kind)} media of kind {kind}, more than {most.key}={most.clips}"
    return None


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
