"""Media, and what an episode begins with."""

import json

import numpy as np
import pytest
from PIL import Image

from mmrlhf_ray.environments.parts import clip, picture, sound
from mmrlhf_ray.environments.protocol import Start
from tests.unit.environments.support import RATE


@pytest.fixture(scope="session")
def image():
    """Four colours in four corners, 40 wide and 20 high."""
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:10, :20], pixels[:10, 20:], pixels[10:, :20], pixels[10:, 20:] = (
        (255, 0, 0),
        (0, 255, 0),
        (0, 0, 255),
        (255, 255, 0),
    )
    return picture(Image.fromarray(pixels))


@pytest.fixture(scope="session")
def tone():
    """Four seconds; the second n has the amplitude n / 10."""
    return sound(np.repeat(np.arange(4, dtype=np.float32) / 10, RATE), RATE)


@pytest.fixture(scope="session")
def film():
    """Eight frames at 4 per second; all of frame n is 10 · n."""
    frames = np.zeros((8, 16, 24, 3), np.uint8) + (10 * np.arange(8, dtype=np.uint8))[:, None, None, None]
    return clip(frames, [n / 4 for n in range(8)], 4)


@pytest.fixture
def start():
    def made(*media, extras=None, seed=1):
        return Start("p", "t", "[]", json.dumps(extras or {}), tuple(media), seed)

    return made
