"""Clips of one digit that moves left, right, up or down, as lossless VP9 in WebM (browsers play it)."""

import io

import av
import numpy as np
from PIL import Image

from mmrlhf_ray.demo.digits import SIDE, scan

DIRECTIONS = ("left", "right", "up", "down")
FRAMES = 4
FRAMES_PER_SECOND = 4

_DIGIT_SIDE = 12
_STEP = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}


def frames(source: int, direction: str) -> np.ndarray:
    """Grey frames uint8 [FRAMES, SIDE, SIDE]: the digit crosses the free margin in the given direction."""
    picture = Image.fromarray(scan(source)).resize((_DIGIT_SIDE, _DIGIT_SIDE), Image.Resampling.BILINEAR)
    digit = np.asarray(picture)
    margin = SIDE - _DIGIT_SIDE
    canvas = np.zeros((FRAMES, SIDE, SIDE), np.uint8)
    for i in range(FRAMES):
        travelled = round(margin * i / (FRAMES - 1))
        row, column = (
            margin // 2 if step == 0 else (travelled if step > 0 else margin - travelled) for step in _STEP[direction]
        )
        canvas[i, row : row + _DIGIT_SIDE, column : column + _DIGIT_SIDE] = digit
    return canvas


def clip_webm(source: int, direction: str) -> bytes:
    """The clip as a WebM file; the same arguments give the same bytes."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="webm", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libvpx-vp9", rate=FRAMES_PER_SECOND)
        stream.width = stream.height = SIDE
        stream.pix_fmt = "yuv420p"
        stream.options = {"lossless": "1", "threads": "1", "cpu-used": "8", "lag-in-frames": "0"}
        for picture in frames(source, direction):
            frame = av.VideoFrame.from_ndarray(np.repeat(picture[..., None], 3, axis=-1), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return buffer.getvalue()
