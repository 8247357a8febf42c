"""Pictures."""

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from mmrlhf_ray.config.data import MediaLimits
from mmrlhf_ray.data.media.formats import DEFAULT_LIMITS, check_limit, open_format

_PNG_DEPTH = 24
"""Where a PNG says how many bits a sample has."""

_ON_ITS_SIDE = 5
"""The first of EXIF's orientations that exchange height and width; so do those after it."""


def decode_image(data: bytes, limits: MediaLimits = DEFAULT_LIMITS) -> Image.Image:
    """RGB image, upright as its camera says; transparency lies on white, of an animation the first frame counts.

    Raises ValueError when the bytes are no image, are cut off, or exceed `limits`.
    """
    form = open_format("image", data, limits)
    with opened(data, form.reader, form.mime, limits) as image:
        check_limit("image", "pixels", image.width * image.height, limits.pixels)
        if form.reader == "PNG":
            _scale_transparency(image, data[_PNG_DEPTH])
        image.load()
        return to_rgb(ImageOps.exif_transpose(image))


def to_png(picture: Image.Image | np.ndarray) -> bytes:
    """A picture, or uint8 [height, width] or [height, width, 3], as a PNG file."""
    buffer = io.BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(buffer, "PNG")
    return buffer.getvalue()


def image_size(data: bytes, limits: MediaLimits = DEFAULT_LIMITS) -> tuple[int, int]:
    """Height and width, upright as the camera says, from the header alone. Raises ValueError as decode_image()."""
    form = open_format("image", data, limits)
    with opened(data, form.reader, form.mime, limits) as image:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= _ON_ITS_SIDE
        return (image.width, image.height) if turned else (image.height, image.width)


@contextmanager
def opened(data: bytes, reader: str, mime: str, limits: MediaLimits) -> Iterator[Image.Image]:
    """The opened file; what Pillow raises inside becomes ValueError."""
    try:
        with Image.open(io.BytesIO(data), formats=[reader]) as image:
            yield image
    except UnidentifiedImageError as error:
        raise ValueError(f"{mime} has a broken header") from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"image exceeds the limit of {limits.pixels} pixels") from error
    except (OSError, SyntaxError, EOFError, struct.error) as error:  # what Pillow raises for broken pixels
        raise ValueError(f"{mime} is cut off or damaged: {error}") from error


def _scale_transparency(image: Image.Image, depth: int) -> None:
    """Give the transparent colour of a PNG of `depth` bits as Pillow gives its pixels: with 8 bits for each of grey
    with fewer, and of colours with more. PNG, third edition, 11.3.1.1: the file has it in its own depth."""
    transparent = image.info.get("transparency")
    if image.mode == "L" and depth < 8 and isinstance(transparent, int):
        image.info["transparency"] = transparent * 255 // ((1 << depth) - 1)
    elif image.mode == "RGB" and depth == 16 and isinstance(transparent, tuple):
        image.info["transparency"] = tuple(value >> 8 for value in transparent)


def to_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB on white."""
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow would clip to white
        image = _upper_bits(image)
    if not image.has_transparency_data:
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")


def _upper_bits(image: Image.Image) -> Image.Image:
    """8-bit grey of 16 bits; white where the colour is the transparent one."""
    values = np.asarray(image)
    grey = (values >> 8).astype(np.uint8)
    transparent = image.info.get("transparency")
    return Image.fromarray(grey if transparent is None else np.where(values == transparent, np.uint8(255), grey))
