"""Writing pictures."""

import numpy as np
import pytest
from PIL import Image

from mmrlhf_ray.data.media import decode_image, to_png


@pytest.mark.parametrize("shape", [(3, 5), (3, 5, 3)])
def test_pixels_come_back_as_they_were(shape: tuple[int, ...]) -> None:
    pixels = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    for written in (to_png(pixels), to_png(Image.fromarray(pixels))):
        read = np.asarray(decode_image(written))
        assert np.array_equal(read, pixels if len(shape) == 3 else np.repeat(pixels[..., None], 3, axis=2))
