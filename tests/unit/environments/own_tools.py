"""Tools that a user might write, and what goes wrong in them."""

import os
import time
import zlib
from typing import Annotated

import numpy as np
from PIL import Image
from pydantic import Field

from mmrlhf_ray.environments.parts import Sound


def brightness(image: Image.Image, at: tuple[int, int] = (0, 0)) -> str:
    """Tell how bright a point is.

    at: column and row
    """
    return str(max(image.getpixel(at)))


def darker(picture: np.ndarray, by: Annotated[int, Field(ge=1)] = 2):
    return picture // by


def louder(sound: Sound, other: Sound | None = None):
    return ["louder:", (sound.rate, sound.samples * 2), {"peak": float(np.abs(sound.samples).max())}]


def first(frames: np.ndarray):
    return frames[:2]


def nothing():
    print("noise on standard output")
    os.write(1, b"more noise\n")


def hang():
    time.sleep(600)


def fail():
    raise KeyError("no such thing")


def leave():
    os._exit(7)


def long_text():
    return "x" * 100_000_000


def large_bytes():
    return b"\x89PNG\r\n\x1a\n" + bytes(100_000_000)


def rubbish():
    return b"this is no picture"


def bomb():
    """A PNG of 50,000 × 50,000."""

    def chunk(name, data):
        body = name + data
        return len(data).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")

    head = (50_000).to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def thing():
    return object()


def swell():
    return np.ones(1 << 34, np.uint8).sum()


def several():
    return [Image.new("RGB", (4, 4))] * 12


def half_character():
    return "\udc80 and a whole one"
