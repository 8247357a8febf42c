"""Seeded changes of training media.

    record, media_rows = augment(record, media_rows, config.data, (run_seed, epoch, record_number))

What comes back are new MEDIA rows under their own ids, so that sampler and learner see the same bytes, and a record
that names them. Only for training; evaluation reads what was written.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import av
import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from mmrlhf_ray.config.data import AudioAugment, AugmentConfig, DataConfig, ImageAugment, VideoAugment
from mmrlhf_ray.data.media import Clip, MediaRow, media_row, to_wav
from mmrlhf_ray.data.media.decode_pool import DecodePool, DecodeSettings, decode_pool

_CLOCK = 1000
"""Ticks per second that Matroska's time stamps count."""
_ENHANCERS = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)


def augment(
    record: Mapping[str, Any], media_rows: Sequence[MediaRow], data: DataConfig, seed: tuple[int, int, int]
) -> tuple[Mapping[str, Any], list[MediaRow]]:
    """(a record that shows changed media, those media) of a record whose task `data.augment` names.

    `media_rows` are the record's, in the order of its `media_ids`. `seed` is (run seed, epoch, number of the record):
    the same seed gives the same bytes. Returns what it was given where there is nothing to change, and gives each clip
    that changes nothing its own row back. Raises ValueError for media that cannot be decoded.
    """
    config = data.augment
    if config is None or record["task"] not in config.tasks:
        return record, list(media_rows)
    rows = [_changed(row, data, config, (*seed, place)) for place, row in enumerate(media_rows)]
    return {**record, "media_ids": [row["media_id"] for row in rows]}, rows


def _changed(row: MediaRow, data: DataConfig, config: AugmentConfig, seed: tuple[int, ...]) -> MediaRow:
    kind = row["kind"]
    part = getattr(config, kind)
    if part == type(part)():
        return row
    pool = decode_pool(DecodeSettings.of(data))
    return media_row(kind, _CHANGES[kind](row["data"], part, pool, np.random.default_rng(seed)))


def _image(data: bytes, change: ImageAugment, pool: DecodePool, rng: np.random.Generator) -> bytes:
    (image,) = pool.decode([("image", data)], None)
    assert isinstance(image, Image.Image)
    width, height = (
        max(1, round(side * (1 - share))) for side, share in zip(image.size, rng.uniform(0, change.crop, 2))
    )
    left, top = rng.integers(0, image.width - width + 1), rng.integers(0, image.height - height + 1)
    image = image.crop((int(left), int(top), int(left) + width, int(top) + height))
    if rng.random() < change.flip:
        image = ImageOps.mirror(image)
    for enhancer, factor in zip(_ENHANCERS, rng.uniform(1 - change.colour, 1 + change.colour, 3), strict=True):
        image = enhancer(image).enhance(float(factor))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _audio(data: bytes, change: AudioAugment, pool: DecodePool, rng: np.random.Generator) -> bytes:
    samples, rate = pool.samples(data)
    samples = samples * 10 ** (rng.uniform(-change.gain_db, change.gain_db) / 20)
    if change.noise_db is not None:
        loudness = np.sqrt(np.mean(np.square(samples, dtype=np.float64)))
        samples = samples + rng.normal(0, 1, len(samples)) * loudness * 10 ** (-change.noise_db / 20)
    return to_wav(samples, rate)


def _video(data: bytes, change: VideoAugment, pool: DecodePool, rng: np.random.Generator) -> bytes:
    """The frames that `data.video` keeps, lossless."""
    (clip,) = pool.decode([("video", data)], None)
    assert isinstance(clip, Clip)
    places = np.arange(len(clip))
    steps = np.where(rng.random(len(clip)) < change.jitter, rng.choice((-1, 1), len(clip)), 0)
    return _matroska(clip, np.clip(places + steps, 0, len(clip) - 1))


def _matroska(clip: Clip, places: np.ndarray) -> bytes:
    """The clip with frame `places[i]` in place of frame i. The same frames always give the same bytes."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("ffv1", rate=Fraction(clip.fps).limit_denominator(1001))
        stream.height, stream.width = clip.frames.shape[1:3]
        stream.pix_fmt = "bgr0"
        stream.codec_context.time_base = Fraction(1, _CLOCK)
        for place, seconds in zip(places, clip.seconds, strict=True):
            frame = av.VideoFrame.from_ndarray(clip.frames[place], format="rgb24")
            frame.pts, frame.time_base = round(seconds * _CLOCK), Fraction(1, _CLOCK)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return buffer.getvalue()


_CHANGES: Mapping[str, Callable[[bytes, Any, DecodePool, np.random.Generator], bytes]] = {
    "image": _image,
    "audio": _audio,
    "video": _video,
}
