"""Small real models and inputs that the unit tests of several rooms share."""

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import soundfile
import torch
from PIL import Image
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from mmrlhf_ray.data.batches.collate import TokenRow
from mmrlhf_ray.data.encoding.encode import EncodedPrompt, Encoder, Features, RawMedia, encode_prompt
from mmrlhf_ray.data.media import media_id
from mmrlhf_ray.demo.clips import DIRECTIONS, clip_webm
from mmrlhf_ray.schema import ROLLOUT

SIDE = 16
_VL_SPECIAL = (
    "<|endoftext|>",
    "<unk>",
    "<|im_start|>",
    "<|im_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<|vision_start|>",
    "<|vision_end|>",
)
_VL_TEMPLATE = (
    "{%- for message in messages -%}<|im_start|>{{ message.role }}\n"
    "{%- if message.content is string -%}{{ message.content }}{%- else -%}{%- for part in message.content -%}"
    "{%- if part.type == 'text' -%}{{ part.text }}"
    "{%- else -%}<|vision_start|><|{{ part.type }}_pad|><|vision_end|>{%- endif -%}"
    "{%- endfor -%}{%- endif -%}<|im_end|>{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|im_start|>assistant\n{%- endif -%}"
)


def picture(seed: int, size: tuple[int, int] = (SIDE, SIDE)) -> bytes:
    """A PNG of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def noise(seed: int, seconds: float, rate: int = 16_000) -> bytes:
    """A WAV of noise."""
    samples = np.random.default_rng(seed).normal(0.0, 0.2, int(seconds * rate)).astype(np.float32)
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def raw(kind: str, seed: int) -> RawMedia:
    """One clip of `kind`; other seeds give other clips."""
    if kind == "image":
        data = picture(seed)
    elif kind == "audio":
        data = noise(seed, seconds=0.15 + 0.05 * (seed % 5))
    else:
        data = clip_webm(seed, DIRECTIONS[seed % 4])
    return RawMedia(media_id(data), kind, data)


def messages(kinds: Sequence[str], text: str = "which digit is written ?") -> str:
    """One user turn with a media part per kind, then text."""
    content = [{"type": kind} for kind in kinds] + [{"type": "text", "text": text}]
    return json.dumps([{"role": "user", "content": content}])


def encode(encoder: Encoder, media: Sequence[RawMedia], text: str = "which digit is written ?") -> EncodedPrompt:
    return encode_prompt(encoder, messages([m.kind for m in media], text), media)


def token_rows(
    encoder: Encoder, shown: Sequence[Sequence[RawMedia]], responses: Sequence[Sequence[int]]
) -> tuple[list[TokenRow], dict[str, Features]]:
    """A row for each prompt that shows those clips, with its response; and all features."""
    rows, features = [], {}
    for media, response in zip(shown, responses, strict=True):
        encoded = encode(encoder, media)
        rows.append(TokenRow(encoded.token_ids, list(response), [m.media_id for m in media]))
        features |= encoded.features
    return rows, features


def mixed_media(encoder: Encoder) -> list[list[RawMedia]]:
    """What five prompts show: nothing, one clip, two pictures, another kind, all kinds the family has."""
    kinds = list(encoder.adapter.placeholders)
    return [
        [],
        [raw(kinds[-1], 1)],
        [raw("image", 2), raw("image", 3)],
        [raw(kinds[1], 4)],
        [raw(kind, 5) for kind in kinds],
    ]


def mixed_responses(encoder: Encoder) -> list[list[int]]:
    """Plain tokens, two to four to a response."""
    first = len(encoder.tokenizer) - 12
    return [[first + (5 * i + k) % 12 for k in range(2 + i % 3)] for i in range(5)]


def mixed_rows(encoder: Encoder) -> tuple[list[TokenRow], dict[str, Features]]:
    """Rows of every modality, of different lengths."""
    return token_rows(encoder, mixed_media(encoder), mixed_responses(encoder))


def rollout_table(rows: Sequence[TokenRow], facts: Sequence[Sequence[int]] | None = None, **columns: list) -> pa.Table:
    """ROLLOUT of these rows; `columns` replaces defaults."""
    modality = columns.pop("modality", ["text"] * len(rows))
    records = [
        {
            "sample_id": f"s{i}",
            "group_id": i,
            "prompt_id": f"p{i}",
            "task": "t",
            "modality": modality[i],
            "policy_version": 0,
            "prompt_token_ids": list(row.context),
            "facts_token_ids": list(facts[i]) if facts else [],
            "response_token_ids": list(row.response),
            "response_mask": [True] * len(row.response),
            "rollout_logprobs": [-1.0] * len(row.response),
            "finish_reason": "stop",
            "media_ids": list(row.media_ids),
        }
        | {name: values[i] for name, values in columns.items()}
        for i, row in enumerate(rows)
    ]
    return pa.Table.from_pylist(records, schema=ROLLOUT)


def build_vl(path: Path, seed: int) -> None:
    """Write an untrained Qwen2.5-VL of a few thousand parameters, as save_pretrained() writes it."""
    sentence = ("which", "digit", "is", "written", "?", "read", "the", "image", ".")
    words = ["user", "assistant", "system", *sentence, *"0123456789"]
    ids = {token: i for i, token in enumerate(dict.fromkeys([*_VL_SPECIAL, "\n", *words, *(f" {w}" for w in words)]))}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\n| ?[^ \n]+"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in _VL_SPECIAL])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<|endoftext|>", unk_token="<unk>", eos_token="<|im_end|>"
    )
    size = {"shortest_edge": SIDE * SIDE, "longest_edge": SIDE * SIDE}
    vision = {"size": size, "patch_size": 4, "merge_size": 2, "temporal_patch_size": 2}
    processor = Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**vision),
        video_processor=Qwen2VLVideoProcessor(**vision, cap_pixels_per_frame=False, do_sample_frames=False),
        tokenizer=fast,
        chat_template=_VL_TEMPLATE,
    )
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(ids),
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 3, 3]},
            "initializer_range": 0.2,
            "tie_word_embeddings": False,
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "patch_size": 4,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": SIDE,
            "fullatt_block_indexes": [1],
            "out_hidden_size": 32,
            "initializer_range": 0.2,
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config = GenerationConfig(eos_token_id=ids["<|im_end|>"], pad_token_id=ids["<|endoftext|>"])
    model.save_pretrained(path)
    processor.save_pretrained(path)
