"""Prompts of every modality on which sampler and learner are compared: clips of mixed sizes, rates and lengths."""

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import av
import numpy as np
import pyarrow as pa
import soundfile

from mmrlhf_ray.data.encoding.encode import Encoder, Features, RawMedia, encode_prompt
from mmrlhf_ray.data.encoding.turns import check_turns
from mmrlhf_ray.data.media import MediaRow, media_row, to_png
from mmrlhf_ray.schema import ENCODED_PROMPT, MEDIA, PROMPT, modality_of

CASES: Mapping[str, tuple[str, ...]] = {
    "text": (),
    "image": ("image",),
    "three images": ("image", "image", "image"),
    "audio": ("audio",),
    "two sounds": ("audio", "audio"),
    "image + audio": ("image", "audio"),
    "video": ("video",),
    "video + image": ("video", "image"),
}
"""Name → the media kinds of a prompt, in order. Videos have sound, which no model is given."""
TURNS = "turns"
"""Name of the case of several turns."""
_PROMPTS_PER_CASE = 4
_TEXTS = (
    "what is this ?",
    "say\n\nwhat you see, or hear, as well as you can",
    "?",
    "one two three four five six seven",
)
_RATES = (Fraction(2), Fraction(5), Fraction(1), Fraction(12))
_FRAMES = (4, 10, 2, 7)


@dataclass(frozen=True)
class Case:
    """One modality's prompts, ready for both sides."""

    name: str
    prompts: pa.Table
    records: pa.Table
    """PROMPT."""
    media: pa.Table
    features: dict[str, Features]
    later: tuple[MediaRow, ...] = ()
    """Clips that later turns of the conversation show, one each."""


def make_cases(encoder: Encoder) -> list[Case]:
    """Every case whose media kinds the family takes. Raises ValueError where the processor refuses one."""
    kinds = encoder.adapter.placeholders.keys()
    wanted = [(name, of_case) for name, of_case in CASES.items() if kinds >= {*of_case}]
    return [_case(encoder, name, of_case, seed) for seed, (name, of_case) in enumerate(wanted)]


def make_turns(encoder: Encoder) -> list[Case]:
    """Prompts with a clip that are followed by turns with a clip of each kind that the family takes; none where it
    takes no media. Raises ModelError where its chat template does not go on turn by turn, ValueError where the
    processor refuses a clip."""
    kinds = list(encoder.adapter.placeholders)
    if not kinds:
        return []
    check_turns(encoder)
    rng = np.random.default_rng(len(CASES) + 1)
    later = tuple(media_row(kind, MAKERS[kind](rng, 1)) for kind in kinds)
    return [replace(_case(encoder, TURNS, kinds[:1], len(CASES)), later=later)]


def left_out(encoder: Encoder) -> list[str]:
    """Cases of kinds that the family does not take."""
    return [name for name, kinds in CASES.items() if not encoder.adapter.placeholders.keys() >= {*kinds}]


def _case(encoder: Encoder, name: str, kinds: Sequence[str], seed: int) -> Case:
    rng = np.random.default_rng(seed)
    rows, records = list[dict[str, Any]](), list[dict[str, Any]]()
    clips: dict[str, MediaRow] = {}
    features: dict[str, Features] = {}
    for number in range(_PROMPTS_PER_CASE):
        made = [media_row(kind, MAKERS[kind](rng, number)) for kind in kinds]
        clips |= {clip["media_id"]: clip for clip in made}
        # Text between the clips of every other prompt.
        text = {"type": "text", "text": _TEXTS[number]}
        parts = [part for kind in kinds for part in ([{"type": kind}, text] if number % 2 else [{"type": kind}])]
        media = [RawMedia(clip["media_id"], clip["kind"], clip["data"]) for clip in made]
        messages = json.dumps([{"role": "user", "content": [*parts, text]}])
        encoded = encode_prompt(encoder, messages, media)
        features |= encoded.features
        prompt = {
            "prompt_id": f"{name} {number}",
            "task": "parity",
            "modality": modality_of(kinds),
            "media_ids": [clip["media_id"] for clip in made],
        }
        records.append(prompt | {"messages": messages, "extras": "{}"})
        rows.append(
            prompt
            | {
                "group_id": number,
                "prompt_token_ids": encoded.token_ids,
                "collapsed_token_ids": encoded.collapsed_token_ids,
                "facts_token_ids": [],
            }
        )
    prompts = pa.Table.from_pylist(rows, schema=ENCODED_PROMPT)
    return Case(
        name,
        prompts,
        pa.Table.from_pylist(records, schema=PROMPT),
        pa.Table.from_pylist(list(clips.values()), schema=MEDIA),
        features,
    )


def make_image(rng: np.random.Generator, number: int) -> bytes:
    """A PNG of noise, of another shape for each number."""
    width, height = (int(n) for n in rng.integers(40, 120, 2))
    if number == 2:
        width *= 3
    return to_png(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def make_audio(rng: np.random.Generator, number: int) -> bytes:
    """A WAV of noise, of another length and rate for each number."""
    out = io.BytesIO()
    rate = (16_000, 24_000, 8_000, 44_100)[number % 4]
    samples = 0.1 * rng.standard_normal(int(rate * rng.uniform(0.2, 0.6))).astype(np.float32)
    soundfile.write(out, samples, rate, format="WAV")
    return out.getvalue()


def make_video(rng: np.random.Generator, number: int) -> bytes:
    """A clip of noise with a sound track, of another length, rate and shape for each number."""
    out = io.BytesIO()
    rate, count = _RATES[number % 4], _FRAMES[number % 4]
    width, height = (64, 48) if number % 2 else (48, 48)
    with av.open(out, "w", format="matroska") as container:
        stream = container.add_stream("ffv1", rate=rate)
        stream.width, stream.height, stream.pix_fmt = width, height, "bgr0"
        sound = container.add_stream("pcm_s16le", rate=16_000, layout="mono")
        for _ in range(count):
            frame = av.VideoFrame.from_ndarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        samples = rng.integers(-9000, 9000, (1, int(16_000 * count / rate)), dtype=np.int16)
        heard = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        heard.sample_rate = 16_000
        container.mux(sound.encode(heard))
        container.mux(sound.encode())
    return out.getvalue()


MAKERS: Mapping[str, Callable[[np.random.Generator, int], bytes]] = {
    "image": make_image,
    "audio": make_audio,
    "video": make_video,
}
