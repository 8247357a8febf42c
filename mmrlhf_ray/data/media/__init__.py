"""Bytes of an image, a sound or a clip to what Hugging Face processors and vLLM take.

The format is told by the leading bytes, never by a name, and only the formats of `formats.FORMATS` are opened: FFmpeg
left to guess also opens playlists, which make it fetch addresses and read other files. Limits are checked against the
header first, then again while decoding, as a header may lie.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from mmrlhf_ray.config.data import MediaLimits, VideoSampling
from mmrlhf_ray.data.media.audio import decode_audio, decode_sound_track, read_audio, resample, to_wav
from mmrlhf_ray.data.media.formats import DEFAULT_LIMITS, MediaRow, media_id, media_row
from mmrlhf_ray.data.media.image import decode_image, to_png
from mmrlhf_ray.data.media.video import ALL_FRAMES, Clip, clip_seconds, decode_span, decode_video

__all__ = [
    "ALL_FRAMES",
    "Clip",
    "DEFAULT_LIMITS",
    "MediaLimits",
    "MediaRow",
    "VideoSampling",
    "clip_seconds",
    "decode",
    "decode_audio",
    "decode_image",
    "decode_sound_track",
    "decode_span",
    "decode_video",
    "media_id",
    "media_row",
    "read_audio",
    "resample",
    "to_png",
    "to_wav",
]

Decoded: TypeAlias = Image.Image | np.ndarray | Clip

_DECODERS: Mapping[str, Callable[[bytes, int | None, MediaLimits, VideoSampling], Any]] = {
    "image": lambda data, _rate, limits, _sampling: decode_image(data, limits),
    "audio": lambda data, rate, limits, _sampling: decode_audio(data, rate, limits),
    "video": lambda data, _rate, limits, sampling: decode_video(data, limits, sampling),
}


def decode(
    kind: str,
    data: bytes,
    sampling_rate: int | None,
    limits: MediaLimits = DEFAULT_LIMITS,
    sampling: VideoSampling = ALL_FRAMES,
) -> Decoded:
    """Decode media of any kind; `sampling_rate` (Hz, None keeps the file's) is for audio, `sampling` for video.
    ValueError as above."""
    return _DECODERS[kind](data, sampling_rate, limits, sampling)
