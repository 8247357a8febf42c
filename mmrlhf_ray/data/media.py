"""Bytes of an image, a sound or a clip to what Hugging Face processors and vLLM take.

The format is told by the leading bytes, never by a name, and only the formats listed here are opened: FFmpeg left to
guess also opens playlists, which make it fetch addresses and read other files. Limits are checked against the header
first, then again while decoding, as a header may lie.
"""

import hashlib
import io
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypedDict

import av
import numpy as np
import soundfile
from av.container import InputContainer
from PIL import Image, ImageOps, UnidentifiedImageError

_EBML = b"\x1aE\xdf\xa3"
_MP3_SYNCS = tuple(bytes((0xFF, byte)) for byte in (0xFB, 0xFA, 0xF3, 0xF2, 0xE3, 0xE2))  # layer III, any version
_SEGMENT = b"\x18S\x80g"
_MAX_SAMPLING_RATE = 768_000
_MAX_CHANNELS = 64
_SOUND_FILE = "libsndfile"
_BLOCK = 65_536  # frames
_NOTHING = np.zeros(0, np.float32)
_RIFF_UNKNOWN = 0x7FFFFF00  # writers that stream put this or more


@dataclass(frozen=True)
class MediaLimits:
    """Largest media that are decoded."""

    bytes: int = 64 * 2**20
    """Encoded size."""
    pixels: int = 50_000_000
    """Width × height of an image or of one frame."""
    clip_pixels: int = 500_000_000
    """Width × height × frames of a clip (3 bytes each once decoded)."""
    seconds: float = 600.0
    """Length of a sound or clip."""
    frames: int = 1024


DEFAULT_LIMITS = MediaLimits()


class MediaRow(TypedDict):
    """One row of the MEDIA table."""

    media_id: str
    kind: str
    mime: str
    data: bytes


@dataclass(frozen=True)
class _Format:
    mime: str
    reader: str
    """Pillow's name of the format, that of FFmpeg's demuxer, or `_SOUND_FILE`."""
    magic: bytes
    offset: int = 0


_FORMATS: Mapping[str, tuple[_Format, ...]] = {
    "image": (
        _Format("image/png", "PNG", b"\x89PNG\r\n\x1a\n"),
        _Format("image/jpeg", "JPEG", b"\xff\xd8\xff"),
        _Format("image/webp", "WEBP", b"WEBP", 8),
        _Format("image/gif", "GIF", b"GIF8"),
        _Format("image/bmp", "BMP", b"BM"),
    ),
    "audio": (
        _Format("audio/wav", _SOUND_FILE, b"WAVE", 8),
        _Format("audio/flac", _SOUND_FILE, b"fLaC"),
        _Format("audio/ogg", "ogg", b"OggS"),
        _Format("audio/mpeg", "mp3", b"ID3"),
        *(_Format("audio/mpeg", "mp3", sync) for sync in _MP3_SYNCS),
        _Format("audio/mp4", "mov", b"ftyp", 4),
        _Format("audio/webm", "matroska", _EBML),
    ),
    "video": (
        _Format("video/mp4", "mov", b"ftyp", 4),
        _Format("video/webm", "matroska", _EBML),
        _Format("video/x-msvideo", "avi", b"AVI ", 8),
        _Format("video/ogg", "ogg", b"OggS"),
    ),
}


def media_id(data: bytes) -> str:
    """Identity of media: the hexadecimal sha256 of the bytes."""
    return hashlib.sha256(data).hexdigest()


def media_row(kind: str, data: bytes) -> MediaRow:
    """A MEDIA row. Raises ValueError when the bytes are in no format known for `kind`."""
    return MediaRow(media_id=media_id(data), kind=kind, mime=_format(kind, data).mime, data=data)


def decode_image(data: bytes, limits: MediaLimits = DEFAULT_LIMITS) -> Image.Image:
    """RGB image, upright as its camera says; transparency lies on white, of an animation the first frame counts.

    Raises ValueError when the bytes are no image, are cut off, or exceed `limits`.
    """
    form = _open_format("image", data, limits)
    try:
        with Image.open(io.BytesIO(data), formats=[form.reader]) as image:
            _check_limit("image", "pixels", image.width * image.height, limits.pixels)
            image.load()
            return _to_rgb(ImageOps.exif_transpose(image))
    except UnidentifiedImageError as error:
        raise ValueError(f"{form.mime} has a broken header") from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"image exceeds the limit of {limits.pixels} pixels") from error
    except (OSError, SyntaxError, EOFError, struct.error) as error:  # what Pillow raises for broken pixels
        raise ValueError(f"{form.mime} is cut off or damaged: {error}") from error


def decode_audio(data: bytes, sampling_rate: int | None, limits: MediaLimits = DEFAULT_LIMITS) -> np.ndarray:
    """Mono samples float32 [n] at `sampling_rate` Hz, or at the file's own rate if None; channels are averaged.

    Integer formats are scaled to [-1, 1]. Raises ValueError when there is no sound track, no sample, a sample that is
    not finite, damage, or more than `limits`.
    """
    form = _open_format("audio", data, limits)
    read = _read_sound_file if form.reader == _SOUND_FILE else _read_sound_track
    samples, rate = read(form, data, limits)
    if not len(samples):
        raise ValueError("audio has no samples")
    finite = np.isfinite(samples)
    if not finite.all():
        raise ValueError(f"audio sample {int(np.argmin(finite))} is NaN or infinite")
    return samples if sampling_rate in (rate, None) else _resample(samples, rate, sampling_rate)


def decode_video(data: bytes, limits: MediaLimits = DEFAULT_LIMITS) -> np.ndarray:
    """All frames, RGB uint8 [frames, height, width, 3], upright as the camera says.

    Raises ValueError when there is no picture track, no frame, damage, or more than `limits`.
    """
    with _container(_open_format("video", data, limits), data, limits) as container:
        if not container.streams.video:
            raise ValueError("has no picture track")
        stream = container.streams.video[0]
        if stream.codec_context is None:
            raise ValueError("video is in an unknown encoding")
        height, width = stream.codec_context.height, stream.codec_context.width
        _check_frames(height, width, max(1, stream.frames), limits)
        frames: list[np.ndarray] = []
        rotation = 0
        for frame in container.decode(stream):
            if (frame.height, frame.width) != (height, width):
                raise ValueError(f"frame {len(frames)} is {frame.width}×{frame.height}, the first {width}×{height}")
            _check_frames(height, width, len(frames) + 1, limits)
            frames.append(frame.to_ndarray(format="rgb24"))
            rotation = frame.rotation
        if not frames:
            raise ValueError("video has zero frames")
        clip = np.stack(frames)
        # Both count counterclockwise: FFmpeg in degrees, numpy in quarter turns.
        return np.ascontiguousarray(np.rot90(clip, rotation // 90, axes=(1, 2))) if rotation % 360 else clip


_DECODERS: Mapping[str, Callable[[bytes, int | None, MediaLimits], Any]] = {
    "image": lambda data, _rate, limits: decode_image(data, limits),
    "audio": decode_audio,
    "video": lambda data, _rate, limits: decode_video(data, limits),
}


def decode(
    kind: str, data: bytes, sampling_rate: int | None, limits: MediaLimits = DEFAULT_LIMITS
) -> Image.Image | np.ndarray:
    """Decode media of any kind; `sampling_rate` (Hz, None keeps the file's) is for audio. ValueError as above."""
    return _DECODERS[kind](data, sampling_rate, limits)


def _matches(form: _Format, data: bytes) -> bool:
    return data[form.offset : form.offset + len(form.magic)] == form.magic


def _format(kind: str, data: bytes) -> _Format:
    for form in _FORMATS[kind]:
        if _matches(form, data):
            return form
    others = [f.mime for forms in _FORMATS.values() for f in forms if _matches(f, data)]
    came = others[0] if others else (f"bytes that begin with {bytes(data[:8])!r}" if data else "an empty file")
    known = ", ".join(dict.fromkeys(f.mime for f in _FORMATS[kind]))
    raise ValueError(f"expected {kind} ({known}), got {came}")


def _open_format(kind: str, data: bytes, limits: MediaLimits) -> _Format:
    _check_limit(kind, "bytes", len(data), limits.bytes)
    form = _format(kind, data)
    declared = _declared_bytes(data)
    if declared is not None and declared > len(data) + 8:  # some writers count the 8 bytes of the RIFF header twice
        raise ValueError(f"{form.mime} is cut off: {len(data)} bytes of {declared}")
    return form


def _declared_bytes(data: bytes) -> int | None:
    """Length of the file by its own header: RIFF (wav, avi, webp) and EBML (webm). None where it says nothing."""
    if data[:4] == b"RIFF":
        riff = int.from_bytes(data[4:8], "little")
        return riff + 8 if 0 < riff < _RIFF_UNKNOWN else None
    if data[:4] == _EBML:
        start, size = _ebml_size(data, 4)
        segment = start + (size or 0)
        if data[segment : segment + 4] == _SEGMENT:
            start, size = _ebml_size(data, segment + 4)
            return None if size is None else start + size
    return None


def _ebml_size(data: bytes, at: int) -> tuple[int, int | None]:
    """(where the content begins, its bytes or None when unknown); RFC 8794, section 4."""
    if at >= len(data) or data[at] == 0:
        return at, None
    width = 9 - data[at].bit_length()
    value = int.from_bytes(data[at : at + width], "big") & ((1 << 7 * width) - 1)
    return at + width, None if value == (1 << 7 * width) - 1 else value


def _check_limit(kind: str, unit: str, value: float, limit: float) -> None:
    if value > limit:
        raise ValueError(f"{kind} has {value:.15g} {unit}, the limit is {limit:.15g}")


def _check_frames(height: int, width: int, frames: int, limits: MediaLimits) -> None:
    _check_limit("video", "frames", frames, limits.frames)
    _check_limit("video frame", "pixels", height * width, limits.pixels)
    _check_limit("video", "pixels over all frames", height * width * frames, limits.clip_pixels)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow would clip to white
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if not image.has_transparency_data:
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")


@contextmanager
def _container(form: _Format, data: bytes, limits: MediaLimits) -> Iterator[InputContainer]:
    """The opened file; what FFmpeg raises inside becomes ValueError."""
    try:
        with av.open(io.BytesIO(data), mode="r", format=form.reader) as container:
            _check_limit(form.mime, "seconds", (container.duration or 0) / av.time_base, limits.seconds)
            yield container
    except av.FFmpegError as error:
        raise ValueError(f"{form.mime} is cut off or damaged: {error.strerror}") from error


def _read_sound_file(form: _Format, data: bytes, limits: MediaLimits) -> tuple[np.ndarray, int]:
    """(mono samples, Hz) of formats that libsndfile reads well, and far faster than FFmpeg."""
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            _check_sound(file.samplerate, file.channels)
            _check_limit(form.mime, "seconds", file.frames / file.samplerate, limits.seconds)
            blocks = [_mono(block) for block in file.blocks(_BLOCK, dtype="float32", always_2d=True)]
            rate: int = file.samplerate
    except soundfile.LibsndfileError as error:
        raise ValueError(f"{form.mime} is cut off or damaged: {error.error_string}") from error
    return np.concatenate([_NOTHING, *blocks]), rate


def _read_sound_track(form: _Format, data: bytes, limits: MediaLimits) -> tuple[np.ndarray, int]:
    """(mono samples, Hz) of the first sound track, by FFmpeg."""
    with _container(form, data, limits) as container:
        if not container.streams.audio:
            raise ValueError(f"{form.mime} has no sound track")
        codec = container.streams.audio[0].codec_context
        if codec is None:
            raise ValueError(f"{form.mime} has sound in an unknown encoding")
        rate, channels = codec.sample_rate, codec.channels
        _check_sound(rate, channels)
        # Packed samples, as PyAV reads beyond the planes of sound with 8 channels or more. The channels are averaged
        # here, as FFmpeg's own mono mix of float samples is 3 dB louder.
        to_float = av.AudioResampler(format="flt")
        blocks = [_NOTHING]
        count = 0
        for frame in container.decode(audio=0):
            if (frame.sample_rate, frame.layout.nb_channels) != (rate, channels):
                raise ValueError(f"{form.mime} changes its sampling rate or channels midway")
            blocks += [_mono(packed.to_ndarray().reshape(-1, channels)) for packed in to_float.resample(frame)]
            count += frame.samples
            _check_limit(form.mime, "seconds", count / rate, limits.seconds)
    return np.concatenate(blocks), rate


def _check_sound(rate: int, channels: int) -> None:
    if not 0 < rate <= _MAX_SAMPLING_RATE or not 0 < channels <= _MAX_CHANNELS:
        raise ValueError(
            f"audio declares {channels} channels of {rate} Hz, "
            f"expected 1 to {_MAX_CHANNELS} of 1 to {_MAX_SAMPLING_RATE} Hz"
        )


def _mono(samples: np.ndarray) -> np.ndarray:
    """[n, channels] to [n]."""
    with np.errstate(all="ignore"):  # the caller looks for what is not finite
        return samples.mean(axis=1, dtype=np.float32)


def _resample(samples: np.ndarray, rate: int, sampling_rate: int) -> np.ndarray:
    frame = av.AudioFrame.from_ndarray(samples[None], format="flt", layout="mono")
    frame.sample_rate = rate
    resampler = av.AudioResampler(format="flt", layout="mono", rate=sampling_rate)
    blocks = [f.to_ndarray()[0] for source in (frame, None) for f in resampler.resample(source)]
    if not blocks:
        raise ValueError(f"audio has {len(samples)} samples at {rate} Hz, too few for {sampling_rate} Hz")
    return np.concatenate(blocks)
