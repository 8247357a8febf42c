"""Inputs that look wrong and are right: accepted, and read for what they are."""

import zlib
from fractions import Fraction
from io import BytesIO

import av
import numpy as np
import pytest
from PIL import Image

from mmrlhf_ray.config.data import DataConfig, VideoSampling
from mmrlhf_ray.data.media import decode, decode_video, media_id
from mmrlhf_ray.data.records.readers import read_records
from mmrlhf_ray.schema import PROMPT
from tests.unit.data import bad_media as media
from tests.unit.data.bad_inputs import Case, shows, write_case


def cmyk() -> bytes:
    out = BytesIO()
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(out, "JPEG", quality=95)
    return out.getvalue()


def variable() -> bytes:
    """Frames at 0, 0.1 and 2 seconds, 32, 64 and 96 bright."""
    out = BytesIO()
    with av.open(out, "w", format="matroska") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width = stream.height = 16
        stream.pix_fmt = "bgr0"
        stream.codec_context.time_base = Fraction(1, 1000)
        for number, start in enumerate((0, 100, 2_000), start=1):
            frame = av.VideoFrame.from_ndarray(np.full((16, 16, 3), 32 * number, np.uint8), format="rgb24")
            frame.pts, frame.time_base = start, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return out.getvalue()


def line(width: int, height: int) -> bytes:
    return media.png(width, height, zlib.compress(bytes((3 * width + 1) * height)))


def swelling() -> bytes:
    return media.png(8, 8, media.deflated_zeros(300 << 20))


def is_red(image):
    return np.abs(np.asarray(image).astype(int) - (255, 0, 0)).max() <= 4


def is_440(samples):
    return np.argmax(np.abs(np.fft.rfft(samples))) * 16_000 / len(samples) == pytest.approx(440, abs=1)


ODD = {
    "CMYK": ("image", cmyk, is_red),
    "1×1": ("image", lambda: line(1, 1), lambda i: (i.size, i.getpixel((0, 0))) == ((1, 1), (0, 0, 0))),
    "20000×1": ("image", lambda: line(20_000, 1), lambda i: i.size == (20_000, 1)),
    "1×20000": ("image", lambda: line(1, 20_000), lambda i: i.size == (1, 20_000)),
    "animation as picture": ("image", media.animation, lambda i: i.size == (16, 16)),
    "rubbish behind the end": ("image", lambda: media.image() + bytes(99), lambda i: i.size == (40, 40)),
    "more pixels than it says": ("image", swelling, lambda i: i.size == (8, 8)),
    "8 kHz": ("audio", lambda: media.sound(rate=8_000), is_440),
    "192 kHz": ("audio", lambda: media.sound(rate=192_000), is_440),
    "11,025 Hz": ("audio", lambda: media.sound(rate=11_025), is_440),
    "8 bits": ("audio", lambda: media.sound(subtype="PCM_U8"), is_440),
    "MP3": ("audio", lambda: media.sound("MP3"), is_440),
    "one sample": ("audio", lambda: media.sound(seconds=1 / 16_000), lambda s: len(s) == 1),
    "variable frame rate": ("video", variable, lambda c: c.seconds.tolist() == pytest.approx([0, 0.1, 2.0], abs=0.01)),
    "one frame": ("video", lambda: media.clip(count=1), lambda c: len(c) == 1),
    "GIF as clip": ("video", media.animation, lambda c: (len(c), c.fps) == (5, pytest.approx(10))),
    "WebP as clip": ("video", lambda: media.animation("WEBP"), lambda c: (len(c), c.fps) == (5, pytest.approx(10))),
    "wrong extension": ("video", lambda: media.clip("webm", "libvpx-vp9"), lambda c: len(c) == 12),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "make", "right"), ODD.values(), ids=ODD)
def test_odd_and_good_is_read_right(kind, make, right, tmp_path):
    data = make()
    case = Case("odd", shows(kind, "odd.bin"), "", files={"odd.bin": data})
    read = read_records(DataConfig(path=str(write_case(case, tmp_path)), format="mmrlhf"), PROMPT, tmp_path / "run")
    assert read.bad_rows == 0
    assert read.media["media_id"].to_pylist() == [media_id(data)]
    assert right(decode(kind, data, 16_000))


def test_variable_frame_rate_is_sampled_by_time():
    clip = decode_video(variable(), sampling=VideoSampling(fps=2))
    assert (clip.frames[:, 0, 0, 0] // 32).tolist() == [1, 2, 2, 2, 3]
