"""What tools and environments return, as parts that a policy can be shown, within limits."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np
from PIL import Image

from mmrlhf_ray.config.environment import EnvironmentBase
from mmrlhf_ray.data.media import (
    Clip,
    Decoded,
    MediaLimits,
    clip_seconds,
    decode,
    decode_span,
    read_audio,
    to_png,
    to_wav,
)
from mmrlhf_ray.data.media.formats import told_format
from mmrlhf_ray.environments.protocol import Part, Shown
from mmrlhf_ray.schema.tables import MEDIA_KINDS

_MILLISECONDS = 1000
_EXPECTED = (
    "text, a picture (PIL), (sampling rate, samples), bytes of a picture, sound or clip, (kind, bytes), a Sound, a "
    "Clip, frames uint8 [n, height, width, 3], what JSON can express, or a list of these"
)


class CannotShow(ValueError):
    """Why something cannot be shown."""


@dataclass(frozen=True)
class Sound:
    """Mono samples float32 [n] in [-1, 1] at `rate` Hz."""

    samples: np.ndarray
    rate: int


@dataclass(frozen=True)
class Film:
    """A clip of which only what is asked for is decoded."""

    data: bytes
    limits: MediaLimits

    @property
    def seconds(self) -> float:
        """Its length. Raises ValueError."""
        return clip_seconds(self.data, self.limits)

    def between(self, start: float, end: float) -> Clip:
        """The frames on display from `start` until before `end`, in seconds. Raises ValueError."""
        return decode_span(self.data, start, end, self.limits)


def parts_of(value: Any) -> tuple[Part, ...]:
    """Parts of whatever a user's code returned; None and an empty list are nothing. Raises CannotShow."""
    if value is None or (isinstance(value, list | tuple) and not value):
        return ()
    media = _media(value)
    if media is not None:
        return (media,)
    if isinstance(value, str):
        return (_clean(value),)
    if isinstance(value, list | tuple) and any(isinstance(v, str | Shown) or _is_media(v) for v in value):
        return tuple(part for item in value for part in parts_of(item))
    try:
        return (json.dumps(value, ensure_ascii=False, default=_number),)
    except (TypeError, ValueError, RecursionError) as error:
        raise CannotShow(f"returned a {type(value).__name__}, expected {_EXPECTED} ({error})") from None


def picture(image: Image.Image) -> Shown:
    """As PNG."""
    return Shown("image", "image/png", to_png(image))


def sound(samples: np.ndarray, rate: int) -> Shown:
    """Mono samples [n] as WAV of 16 bits at their own rate. Raises CannotShow when there are none."""
    if samples.ndim != 1 or not len(samples):
        raise CannotShow(f"returned samples of shape {samples.shape}, expected [n], mono, n ≥ 1")
    return Shown("audio", "audio/wav", to_wav(_in_range(samples), rate))


def clip(frames: np.ndarray, seconds: Sequence[float], rate: float) -> Shown:
    """Frames uint8 [n, height, width, 3], on display from `seconds`, as WebM that loses nothing (VP9, RGB).

    rate: frames per second that the last one's length is taken from. The same frames give the same bytes.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not frames.size:
        raise CannotShow(f"returned frames {frames.dtype} {list(frames.shape)}, expected uint8 [n, height, width, 3]")
    buffer, tick = io.BytesIO(), Fraction(1, _MILLISECONDS)
    with av.open(buffer, "w", format="webm", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libvpx-vp9", rate=Fraction(rate).limit_denominator(_MILLISECONDS))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "gbrp"
        stream.codec_context.time_base = tick
        stream.options = {"lossless": "1", "threads": "1", "cpu-used": "8", "lag-in-frames": "0"}
        for pixels, start in zip(frames, seconds, strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts, frame.time_base = round((start - seconds[0]) * _MILLISECONDS), tick
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return Shown("video", "video/webm", buffer.getvalue())


def decoded(shown: Shown, limits: MediaLimits) -> Decoded | Sound:
    """An image, a Sound at its own rate, or a Clip with all its frames. Raises ValueError."""
    if shown.kind == "audio":
        return Sound(*read_audio(shown.data, limits))
    return decode(shown.kind, shown.data, None, limits)


def bounded(
    parts: Sequence[Part], config: EnvironmentBase, limits: MediaLimits, before: int
) -> tuple[tuple[Part, ...], str | None]:
    """The parts within the limits of `config`, and what was wrong with the others, which the text says as well.

    before: clips that earlier observations of the episode have shown.
    """
    kept: list[Part] = []
    problems: list[str] = []
    characters, clips = config.max_text_characters, before
    for part in parts:
        if isinstance(part, Shown):
            problem = _clip_problem(part, config, limits, clips)
            clips += problem is None
        else:
            problem = None
            if len(part) > characters:
                problem = f"the text has {len(part)} characters and is cut off after {characters}"
                part = part[:characters]
            characters -= len(part)
        if problem is None or isinstance(part, str):
            kept.append(part)
        if problem is not None:
            problems.append(problem)
            kept.append(f"[{problem}]")
    return tuple(part for part in kept if part != ""), "; ".join(problems) or None


def _clip_problem(shown: Shown, config: EnvironmentBase, limits: MediaLimits, clips: int) -> str | None:
    if clips >= config.max_media:
        return f"not shown: {config.max_media} clips have been shown, which is the limit"
    if len(shown.data) > config.max_media_bytes:
        return f"not shown: {shown.kind} of {len(shown.data)} bytes, the limit is {config.max_media_bytes}"
    try:
        decoded(shown, limits)
    except (ValueError, MemoryError) as error:
        return f"not shown: {error or 'it needs too much memory'}"
    return None


def _is_media(value: Any) -> bool:
    return isinstance(value, Shown | Image.Image | Sound | Clip | np.ndarray | bytes) or _pair(value)


def _pair(value: Any) -> bool:
    """Whether it is (rate, samples) or (kind, bytes)."""
    if not isinstance(value, tuple) or len(value) != 2:
        return False
    first, second = value
    return (first in MEDIA_KINDS and isinstance(second, bytes)) if isinstance(first, str) else _is_sound(first, second)


def _is_sound(rate: Any, samples: Any) -> bool:
    return isinstance(rate, int | np.integer) and isinstance(samples, np.ndarray)


def _media(value: Any) -> Shown | None:
    """A clip of what stands for one; None where it does not. Raises CannotShow where it is a broken one."""
    if isinstance(value, Shown):
        return value
    if isinstance(value, Image.Image):
        return picture(value)
    if isinstance(value, Sound):
        return sound(value.samples, value.rate)
    if isinstance(value, Clip):
        return clip(value.frames, value.seconds.tolist(), value.fps)
    if isinstance(value, bytes):
        return _told(value, MEDIA_KINDS)
    if isinstance(value, np.ndarray):
        return _array(value)
    if _pair(value):
        first, second = value
        return _told(second, (first,)) if isinstance(first, str) else sound(second, int(first))
    return None


def _array(value: np.ndarray) -> Shown | None:
    """A picture [height, width] or [height, width, 3 or 4], or frames at 2 per second; None for other numbers."""
    if value.dtype != np.uint8 or value.ndim < 2:
        return None
    if value.ndim == 4:
        return clip(value, [i / 2 for i in range(len(value))], 2)
    return picture(Image.fromarray(value))


def _told(data: bytes, kinds: Sequence[str]) -> Shown:
    reasons = []
    for kind in kinds:
        try:
            mime = told_format(kind, data).mime
        except ValueError as error:
            reasons.append(str(error))
        else:
            return Shown(kind, mime, data)
    raise CannotShow(f"returned bytes that are no media: {reasons[0]}")


def _in_range(samples: np.ndarray) -> np.ndarray:
    """Integers as their type's share of full scale."""
    if np.issubdtype(samples.dtype, np.signedinteger):
        return samples.astype(np.float32) / -float(np.iinfo(samples.dtype).min)
    if not np.issubdtype(samples.dtype, np.floating) or not np.isfinite(samples).all():
        raise CannotShow(f"returned samples {samples.dtype}, expected finite floats in [-1, 1] or signed integers")
    return samples


def _number(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a {type(value).__name__} is in it")


def _clean(text: str) -> str:
    """Without halves of characters, which no tokenizer takes."""
    return text.encode("utf-8", "replace").decode()
