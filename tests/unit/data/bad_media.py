"""Media that cannot or must not be decoded, made here."""

import io
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import numpy as np
import soundfile
from PIL import Image

RNG_SHAPE = (40, 40, 3)
SOUNDS = ("WAV", "FLAC", "OGG")


def noise_pixels(seed: int = 0, shape: tuple[int, ...] = RNG_SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@cache
def image(form: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.fromarray(noise_pixels()).save(out, form)
    return out.getvalue()


@cache
def sound(form: str = "WAV", subtype: str | None = None, rate: int = 16_000, seconds: float = 1.0) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, sine(rate, seconds), rate, format=form, subtype=subtype)
    return out.getvalue()


def sine(rate: int, seconds: float = 1.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * 440 * np.arange(int(rate * seconds)) / rate).astype(np.float32)


def float_wav(samples: np.ndarray) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, samples, 16_000, format="WAV", subtype="FLOAT")
    return out.getvalue()


@cache
def sound_track(form: str = "mp4", codec: str = "aac") -> bytes:
    """Sound that FFmpeg wrote: M4A, WebM."""
    out = io.BytesIO()
    with av.open(out, "w", format=form) as container:
        stream = container.add_stream(codec, rate=48_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(sine(48_000)[None], format="fltp", layout="mono")
        frame.sample_rate = 48_000
        for block in av.AudioResampler(format=stream.format, frame_size=1024 if codec == "aac" else 960).resample(
            frame
        ):
            container.mux(stream.encode(block))
        container.mux(stream.encode(None))
    return out.getvalue()


@cache
def clip(form: str = "mp4", codec: str = "mpeg4", count: int = 12, side: int = 32) -> bytes:
    out = io.BytesIO()
    with av.open(out, "w", format=form) as container:
        stream = container.add_stream(codec, rate=Fraction(4))
        stream.width = stream.height = side
        stream.pix_fmt = "yuv420p"
        for number in range(count):
            pixels = noise_pixels(number, (side, side, 3))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return out.getvalue()


def no_frames() -> bytes:
    """A clip that begins, and ends."""
    out = io.BytesIO()
    with av.open(out, "w", format="avi") as container:
        stream = container.add_stream("mpeg4", rate=4)
        stream.pix_fmt = "yuv420p"
        stream.width = stream.height = 16
        container.start_encoding()
    return out.getvalue()


@cache
def animation(form: str = "GIF", count: int = 5, milliseconds: int = 100) -> bytes:
    out = io.BytesIO()
    first, *others = (Image.fromarray(noise_pixels(i, (16, 16, 3))) for i in range(count))
    first.save(out, form, save_all=True, append_images=others, duration=milliseconds)
    return out.getvalue()


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(width: int, height: int, body: bytes, *extra: bytes, depth: int = 8, colour: int = 2) -> bytes:
    """A PNG with such a header, whatever its pixels are."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def deflated_zeros(count: int) -> bytes:
    packer = zlib.compressobj(9)
    parts = [packer.compress(bytes(1 << 20)) for _ in range(count >> 20)]
    return b"".join([*parts, packer.compress(bytes(count % (1 << 20))), packer.flush()])


def patched(data: bytes, at: int, value: bytes) -> bytes:
    return data[:at] + value + data[at + len(value) :]


def jpeg_size(data: bytes, width: int, height: int) -> bytes:
    return patched(data, data.index(b"\xff\xc0") + 5, struct.pack(">HH", height, width))


def webp_lossless_size(width: int, height: int) -> bytes:
    """RFC 9649, section 3: 14 bits for each side behind the signature."""
    out = io.BytesIO()
    Image.fromarray(noise_pixels()).save(out, "WEBP", lossless=True)
    data = out.getvalue()
    return patched(data, data.index(b"\x2f"), b"\x2f" + struct.pack("<I", (width - 1) | (height - 1) << 14))


def growing_gif() -> bytes:
    """A small GIF whose second frame is far larger than its screen."""
    data = animation("GIF", 2)
    second = data.index(b"\x2c", data.index(b"\x2c") + 1)
    while data[second + 1 : second + 9] != struct.pack("<HHHH", 0, 0, 16, 16):
        second = data.index(b"\x2c", second + 1)
    return patched(data, second + 5, struct.pack("<HH", 60_000, 60_000))


def zip_bomb() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(50 << 20))
    return out.getvalue()


FOREIGN = {
    "text": b"hello world, this is no picture",
    "html": b"<!doctype html><script>alert(1)</script>",
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
    "pdf": b"%PDF-1.7\n1 0 obj",
    "elf": b"\x7fELF\x02\x01\x01" + bytes(50),
    "tiff": b"II*\x00\x08\x00\x00\x00",
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0",
    "playlist": b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
    "concat": b"ffconcat version 1.0\nfile /etc/passwd\n",
    "pickle": b"\x80\x04\x95\x10\x00\x00\x00",
    "shell": b"#!/bin/sh\nrm -rf /",
    "zeros": bytes(1_000),
}
"""What is no media at all, whatever its name says."""


@cache
def truncated() -> dict[str, tuple[str, bytes]]:
    """name → (kind, bytes) of whole files of which parts are missing."""
    whole: dict[str, tuple[str, bytes]] = {form.lower(): ("image", image(form)) for form in IMAGES}
    whole |= {form.lower(): ("audio", sound(form)) for form in SOUNDS}
    whole["m4a"] = ("audio", sound_track())
    whole["m4a-streamed"] = ("audio", index_in_front(sound_track()))
    whole["webm-sound"] = ("audio", sound_track("webm", "libopus"))
    whole["mp4"] = ("video", clip())
    whole["mp4-fast"] = ("video", index_in_front(clip()))
    whole["webm"] = ("video", clip("webm", "libvpx-vp9"))
    whole["avi"] = ("video", clip("avi"))
    whole["gif-clip"] = ("video", animation("GIF"))
    whole["webp-clip"] = ("video", animation("WEBP"))
    return {
        f"{name} {share:.0%}": (kind, data[: int(len(data) * share)])
        for name, (kind, data) in whole.items()
        for share in (0.02, 0.4, 0.95)
    }


IMAGES = ("PNG", "JPEG", "WEBP", "GIF", "BMP")


@cache
def index_in_front(data: bytes) -> bytes:
    """The same MP4 with its index before its content, as for streaming."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.mp4"
        with av.open(io.BytesIO(data)) as source, av.open(path, "w", options={"movflags": "faststart"}) as to:
            streams = {s.index: to.add_stream_from_template(s) for s in source.streams}
            for packet in source.demux():
                if packet.dts is not None:
                    packet.stream = streams[packet.stream_index]
                    to.mux(packet)
        return path.read_bytes()


def scrambled() -> Iterator[tuple[str, str, bytes]]:
    """(name, kind, bytes): the right beginning, and nothing that fits behind it."""
    rubbish = np.random.default_rng(9).bytes(3_000)
    beginnings = {
        "png": ("image", b"\x89PNG\r\n\x1a\n"),
        "jpeg": ("image", b"\xff\xd8\xff\xe0"),
        "webp": ("image", b"RIFF" + struct.pack("<I", 3_004) + b"WEBP"),
        "gif": ("image", b"GIF89a"),
        "bmp": ("image", b"BM"),
        "wav": ("audio", b"RIFF" + struct.pack("<I", 3_004) + b"WAVE"),
        "flac": ("audio", b"fLaC"),
        "ogg": ("audio", b"OggS"),
        "mp3": ("audio", b"ID3"),
        "m4a": ("audio", b"\x00\x00\x00\x18ftypM4A "),
        "webm-sound": ("audio", b"\x1aE\xdf\xa3"),
        "mp4": ("video", b"\x00\x00\x00\x18ftypisom"),
        "webm": ("video", b"\x1aE\xdf\xa3"),
        "avi": ("video", b"RIFF" + struct.pack("<I", 3_004) + b"AVI "),
        "ogv": ("video", b"OggS"),
    }
    for name, (kind, beginning) in beginnings.items():
        yield f"{name} scrambled", kind, beginning + rubbish
        yield f"{name} beginning only", kind, beginning
