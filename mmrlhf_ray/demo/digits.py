"""Handwritten digits of scikit-learn (1,797 scans of 8×8 pixels, 17 grey levels), split by source image."""

from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np

from mmrlhf_ray.data.media import to_png

Split = Literal["train", "heldout"]

SIDE = 16
"""Width and height of a picture in pixels: the scans, doubled."""

HELDOUT_DIGITS = 360
# The split is part of the data set, not of a run: it must not move with the run's seed.
_SPLIT_SEED = 20


@dataclass(frozen=True)
class Digit:
    source: int
    """Index in scikit-learn's data set."""
    value: int
    """0 to 9."""


@cache
def _scans() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits  # two seconds, which the gold reward and the annotators never need

    bunch = load_digits()
    pixels = np.clip(bunch.images * (255.0 / 16.0), 0, 255).round().astype(np.uint8)
    return pixels, bunch.target.astype(int)


@cache
def digits_of(split: Split) -> tuple[Digit, ...]:
    """The digits of a split, 1,437 for training and 360 held out; no source image is in both."""
    _, values = _scans()
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(values))
    chosen = order[:HELDOUT_DIGITS] if split == "heldout" else order[HELDOUT_DIGITS:]
    return tuple(Digit(int(i), int(values[i])) for i in sorted(chosen))


def scan(source: int) -> np.ndarray:
    """Grey picture uint8 [8, 8] of the digit with this source index; ink is bright."""
    return _scans()[0][source]


def digit_png(source: int) -> bytes:
    """The digit as a PNG of SIDE × SIDE grey pixels."""
    return to_png(scan(source).repeat(SIDE // 8, axis=0).repeat(SIDE // 8, axis=1))
