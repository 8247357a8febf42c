"""The stand-in of captioning: drawn things on photographs, in the layout of Flickr30k Entities."""

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import Image, ImageDraw
from sklearn.datasets import load_sample_images

from mmrlhf_ray.scenarios.captioning import BOXES, IMAGES, SENTENCES, Box

THINGS = {
    "ball": ("disc", (220, 40, 40)),
    "tent": ("triangle", (220, 40, 40)),
    "sun": ("disc", (240, 220, 40)),
    "box": ("square", (240, 220, 40)),
    "tree": ("triangle", (40, 180, 60)),
    "bush": ("disc", (40, 180, 60)),
    "window": ("square", (60, 90, 240)),
    "kite": ("triangle", (60, 90, 240)),
}
"""Two of each colour and more of each shape, so that neither alone says what a thing is."""
_PICTURES, _SIDE, _SIDES = 900, 48, (10, 20)
_DIM = 0.4
"""Of the photograph behind the things."""


def make(root: Path, seed: int, pictures: int = _PICTURES) -> None:
    """Two to four things a picture, none on another; five captions each name all of them."""
    for place in (IMAGES, SENTENCES, BOXES):
        (root / place).mkdir(parents=True)
    photographs = load_sample_images().images
    for number in range(pictures):
        rng = np.random.default_rng([seed, number])
        name = f"{1_000_000 + number}"
        photograph = photographs[rng.integers(len(photographs))]
        row, column = (int(rng.integers(size - _SIDE)) for size in photograph.shape[:2])
        behind = _DIM * photograph[row : row + _SIDE, column : column + _SIDE]
        picture = Image.fromarray(behind.astype(np.uint8))
        placed: dict[str, Box] = {}
        for thing in rng.permutation(list(THINGS))[: rng.integers(2, 5)]:
            box = _free(list(placed.values()), rng)
            if box is not None:
                placed[str(thing)] = box
                _draw(ImageDraw.Draw(picture), *THINGS[str(thing)], box)
        picture.save(root / IMAGES / f"{name}.jpg", quality=95)
        captions = [_caption(placed, number, rng) for _ in range(5)]
        (root / SENTENCES / f"{name}.txt").write_text("\n".join(captions) + "\n")
        ElementTree.ElementTree(_annotation(name, placed, number)).write(root / BOXES / f"{name}.xml")


def _free(taken: list[Box], rng: np.random.Generator) -> Box | None:
    """A place that no other box shares; None where none was found."""
    for _ in range(30):
        width, height = (int(side) for side in rng.integers(*_SIDES, size=2))
        left, top = int(rng.integers(_SIDE - width)), int(rng.integers(_SIDE - height))
        box = (left, top, left + width, top + height)
        if all(box[0] >= b[2] or b[0] >= box[2] or box[1] >= b[3] or b[1] >= box[3] for b in taken):
            return box
    return None


def _draw(on: ImageDraw.ImageDraw, shape: str, colour: tuple[int, int, int], box: Box) -> None:
    left, top, right, bottom = box[0], box[1], box[2] - 1, box[3] - 1
    if shape == "disc":
        on.ellipse((left, top, right, bottom), fill=colour)
    elif shape == "square":
        on.rectangle((left, top, right, bottom), fill=colour)
    else:
        on.polygon([((left + right) // 2, top), (right, bottom), (left, bottom)], fill=colour)


def _caption(placed: dict[str, Box], number: int, rng: np.random.Generator) -> str:
    names = list(placed)
    said = [f"[/EN#{_number(number, names.index(name))}/other A {name}]" for name in rng.permutation(names)]
    return f"{' next to '.join(said)} ."


def _number(picture: int, thing: int) -> int:
    return 10 * picture + thing


def _annotation(name: str, placed: dict[str, Box], number: int) -> ElementTree.Element:
    annotation = ElementTree.Element("annotation")
    ElementTree.SubElement(annotation, "filename").text = f"{name}.jpg"
    size = ElementTree.SubElement(annotation, "size")
    for key, value in (("width", _SIDE), ("height", _SIDE), ("depth", 3)):
        ElementTree.SubElement(size, key).text = str(value)
    for thing, box in enumerate(placed.values()):
        made = ElementTree.SubElement(annotation, "object")
        ElementTree.SubElement(made, "name").text = str(_number(number, thing))
        corners = ElementTree.SubElement(made, "bndbox")
        for key, value in zip(("xmin", "ymin", "xmax", "ymax"), (box[0] + 1, box[1] + 1, box[2], box[3]), strict=True):
            ElementTree.SubElement(corners, key).text = str(value)
    return annotation
