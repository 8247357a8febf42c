"""Small real inputs that the unit tests of several rooms share."""

import io
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import soundfile
from PIL import Image

from mmrlhf_ray.data.batches.collate import TokenRow
from mmrlhf_ray.data.encoding.encode import EncodedPrompt, Encoder, Features, RawMedia, encode_prompt
from mmrlhf_ray.data.media import media_id
from mmrlhf_ray.demo.clips import DIRECTIONS, clip_webm
from mmrlhf_ray.schema import RESPONSE, ROLLOUT

SIDE = 16


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
            "versions": [],
            "segments": [],
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


def filled_responses(rows: Sequence[dict]) -> pa.Table:
    """RESPONSE of these rows; columns that they lack say nothing, and tokens are not kept."""
    empty = {
        "sample_id": "",
        "group_id": 0,
        "messages": "[]",
        "extras": "{}",
        "components": "{}",
        "turns": "[]",
        "advantage": math.nan,
        **{field.name: [] for field in RESPONSE if pa.types.is_list(field.type)},
    }
    return pa.Table.from_pylist([empty | row for row in rows], schema=RESPONSE)


_MESSAGES = "{%- for message in messages -%}"
_TOLD = (
    "{%- if tools -%}{{ '<|im_start|>system\n' }}{%- for tool in tools -%}{{ tool | tojson }}{%- endfor -%}"
    "{{ '<|im_end|>\n' }}{%- endif -%}"
)
"""As the templates of models that are trained with tools begin."""


def describe_tools(model: Path) -> None:
    """Let the chat template of a tiny model describe tools."""
    template = model / "chat_template.jinja"
    written = template.read_text()
    assert written.count(_MESSAGES) == 1
    template.write_text(written.replace(_MESSAGES, _TOLD + _MESSAGES))
