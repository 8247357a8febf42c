"""Which format bytes are in, told by themselves: leading bytes, and the length that their header declares."""

import hashlib
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypedDict

import av
from av.container import InputContainer

from mmrlhf_ray.config.data import MediaLimits
from mmrlhf_ray.data.media.foreign import foreign_name
from mmrlhf_ray.data.media.wav import RIFF_UNKNOWN

DEFAULT_LIMITS = MediaLimits()
SOUND_FILE = "libsndfile"
PILLOW = "pillow"

_EBML = b"\x1aE\xdf\xa3"
_SEGMENT = b"\x18S\x80g"
_MP3_SYNCS = tuple(bytes((0xFF, byte)) for byte in (0xFB, 0xFA, 0xF3, 0xF2, 0xE3, 0xE2))  # layer III, any version


class MediaRow(TypedDict):
    """One row of the MEDIA table."""

    media_id: str
    kind: str
    mime: str
    data: bytes


@dataclass(frozen=True)
class Format:
    """One format of one kind."""

    mime: str
    reader: str
    """Pillow's name of the format, that of FFmpeg's demuxer, `SOUND_FILE`, or `PILLOW` for animations."""
    magic: bytes
    offset: int = 0


FORMATS: Mapping[str, tuple[Format, ...]] = {
    "image": (
        Format("image/png", "PNG", b"\x89PNG\r\n\x1a\n"),
        Format("image/jpeg", "JPEG", b"\xff\xd8\xff"),
        Format("image/webp", "WEBP", b"WEBP", 8),
        Format("image/gif", "GIF", b"GIF8"),
        Format("image/bmp", "BMP", b"BM"),
    ),
    "audio": (
        Format("audio/wav", SOUND_FILE, b"WAVE", 8),
        Format("audio/flac", SOUND_FILE, b"fLaC"),
        Format("audio/ogg", "ogg", b"OggS"),
        Format("audio/mpeg", "mp3", b"ID3"),
        *(Format("audio/mpeg", "mp3", sync) for sync in _MP3_SYNCS),
        Format("audio/mp4", "mov", b"ftyp", 4),
        Format("audio/webm", "matroska", _EBML),
    ),
    "video": (
        Format("video/mp4", "mov", b"ftyp", 4),
        Format("video/webm", "matroska", _EBML),
        Format("video/x-msvideo", "avi", b"AVI ", 8),
        Format("video/ogg", "ogg", b"OggS"),
        Format("image/gif", PILLOW, b"GIF8"),
        Format("image/webp", PILLOW, b"WEBP", 8),
    ),
}


def media_id(data: bytes) -> str:
    """Identity of media: the hexadecimal sha256 of the bytes."""
    return hashlib.sha256(data).hexdigest()


def media_row(kind: str, data: bytes) -> MediaRow:
    """A MEDIA row. Raises ValueError when the bytes are in no format known for `kind`."""
    return MediaRow(media_id=media_id(data), kind=kind, mime=told_format(kind, data).mime, data=data)


def told_format(kind: str, data: bytes) -> Format:
    """The format of `kind` that the leading bytes tell. Raises ValueError."""
    foreign = foreign_name(data)
    if foreign is None:
        for form in FORMATS[kind]:
            if _matches(form, data):
                return form
    others = [f.mime for forms in FORMATS.values() for f in forms if _matches(f, data)]
    came = foreign or " or ".join(dict.fromkeys(others))
    came = came or (f"bytes that begin with {bytes(data[:8])!r}" if data else "an empty file")
    known = ", ".join(dict.fromkeys(f.mime for f in FORMATS[kind]))
    raise ValueError(f"expected {kind} ({known}), got {came}")


def open_format(kind: str, data: bytes, limits: MediaLimits) -> Format:
    """The format of bytes that are small enough and all there, as far as a header tells. Raises ValueError."""
    check_limit(kind, "bytes", len(data), limits.bytes)
    form = told_format(kind, data)
    declared = _declared_bytes(data)
    if declared is not None and declared > len(data) + 8:  # some writers count the 8 bytes of the RIFF header twice
        raise ValueError(f"{form.mime} is cut off: {len(data)} bytes of {declared}")
    return form


@contextmanager
def opened(form: Format, data: bytes, limits: MediaLimits) -> Iterator[InputContainer]:
    """A file that FFmpeg reads, opened; what it raises inside becomes ValueError, but for MemoryError."""
    try:
        with av.open(io.BytesIO(data), mode="r", format=form.reader) as container:
            check_limit(form.mime, "seconds", (container.duration or 0) / av.time_base, limits.seconds)
            yield container
    except MemoryError:
        raise
    except av.FFmpegError as error:
        raise ValueError(f"{form.mime} is cut off or damaged: {error.strerror}") from error


def check_limit(kind: str, unit: str, value: float, limit: float) -> None:
    """Raises ValueError when `value` is above `limit`."""
    if value > limit:
        raise ValueError(f"{kind} has {value:.15g} {unit}, the limit is {limit:.15g}")


def _matches(form: Format, data: bytes) -> bool:
    return data[form.offset : form.offset + len(form.magic)] == form.magic


def _declared_bytes(data: bytes) -> int | None:
    """Length of the file by its own header: RIFF (wav, avi, webp), EBML (webm), boxes (mp4). None where it says
    nothing."""
    if data[:4] == b"RIFF":
        riff = int.from_bytes(data[4:8], "little")
        return riff + 8 if 0 < riff < RIFF_UNKNOWN else None
    if data[:4] == _EBML:
        start, size = _ebml_size(data, 4)
        segment = start + (size or 0)
        if data[segment : segment + 4] == _SEGMENT:
            start, size = _ebml_size(data, segment + 4)
            return None if size is None else start + size
    if data[4:8] == b"ftyp":
        return _boxes_end(data)
    return None


def _ebml_size(data: bytes, at: int) -> tuple[int, int | None]:
    """(where the content begins, its bytes or None when unknown); RFC 8794, section 4."""
    if at >= len(data) or data[at] == 0:
        return at, None
    width = 9 - data[at].bit_length()
    value = int.from_bytes(data[at : at + width], "big") & ((1 << 7 * width) - 1)
    return at + width, None if value == (1 << 7 * width) - 1 else value


def _boxes_end(data: bytes) -> int | None:
    """Where the last top-level box says that it ends; ISO 14496-12, section 4.2."""
    at = 0
    while at + 8 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        if size == 1:
            size = int.from_bytes(data[at + 8 : at + 16], "big")
        if size < 8:  # 0: to the end of the file; anything else is for the decoder to refuse
            return None
        at += size
    return at
