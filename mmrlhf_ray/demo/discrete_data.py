"""Data of the discrete-action jobs: real handwritten digits and dialled tones, made hard to see and hear.

`python -m mmrlhf_ray.demo.discrete_data OUT` writes `digits/` (a digit written and dialled, both noisy) and `boxes/` (a
digit somewhere on a larger picture), each with `train` and `heldout`. Held-out rows show scans that no other row shows.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from mmrlhf_ray.data.media import MediaRow, media_row, resample, to_png, to_wav
from mmrlhf_ray.data.records.readers import write_records
from mmrlhf_ray.demo.digits import SIDE, Digit, Split, digits_of, scan
from mmrlhf_ray.demo.tones import SAMPLE_RATE, tone
from mmrlhf_ray.schema import MEDIA, PROMPT

LINE_RATE = 4000
"""Samples per second of the recorded tones: the line carries what keypads need, up to 1477 Hz, and little more."""
PICTURE_NOISE = 0.7
"""Standard deviation of the noise on each pixel of a written digit, as a share of white."""
TONE_NOISE = 2.0
"""Standard deviation of the noise on each sample of a tone, as a share of one of its two sines' amplitude."""
FADED = 0.3
"""Share of the tones of which one of the two sines, either of them, is lost on the line."""
CANVAS = 32
"""Width and height of a picture with a digit somewhere on it, in pixels."""
BOX_SIDES = (10, 14)
"""Smallest and largest width and height of that digit."""
CANVAS_NOISE = 0.15

_GAP_HZ = 1075.0  # rows end at 941 Hz, columns begin at 1209


@dataclass(frozen=True)
class Sizes:
    """Rows to make."""

    train: int = 6000
    heldout: int = 1000


def noisy(picture: np.ndarray, noise: float, rng: np.random.Generator) -> np.ndarray:
    """uint8 [height, width] with Gaussian noise; contrast is lowered so that little of it is cut off."""
    mixed = picture / 255.0 + rng.normal(0.0, noise, size=picture.shape)
    return np.clip(255.0 * (0.5 + (mixed - 0.5) / (1.0 + 2.0 * noise)), 0, 255).round().astype(np.uint8)


def dialled(digit: int, rng: np.random.Generator) -> bytes:
    """A WAV file of the digit's tone over a bad line, as loud as fits."""
    clean = resample(tone(digit, rng, 0.0), SAMPLE_RATE, LINE_RATE)
    clean = 2.0 * clean / np.abs(clean).max()  # two sines of amplitude 1
    if rng.random() < FADED:
        clean = _without_a_sine(clean, high=bool(rng.integers(2)))
    mixed = clean + rng.normal(0.0, TONE_NOISE, size=len(clean))
    return to_wav((0.9 * mixed / np.abs(mixed).max()).astype(np.float32), LINE_RATE)


def digit_row(
    number: int, split: Split, digit: Digit, rng: np.random.Generator
) -> tuple[dict[str, Any], list[MediaRow]]:
    """A PROMPT row and its media: which digit is written and dialled?"""
    picture = scan(digit.source).repeat(SIDE // 8, axis=0).repeat(SIDE // 8, axis=1)
    media = [
        media_row("image", to_png(noisy(picture, PICTURE_NOISE, rng))),
        media_row("audio", dialled(digit.value, rng)),
    ]
    extras = {
        "answer": str(digit.value),
        "parity": "odd" if digit.value % 2 else "even",
        "facts": f"the image shows {digit.value} , the tone says {digit.value}",
        "source": digit.source,
    }
    question = "which digit is written and dialled ?"
    return _row(f"digit-{split}-{number:05d}", "image_tone_digit", question, media, extras), media


def _without_a_sine(samples: np.ndarray, high: bool) -> np.ndarray:
    """A tone of which only the frequencies below or above the gap between keypad rows and columns are left."""
    spectrum = np.fft.rfft(samples)
    frequencies = np.fft.rfftfreq(len(samples), 1.0 / LINE_RATE)
    spectrum[frequencies > _GAP_HZ if high else frequencies <= _GAP_HZ] = 0
    return np.fft.irfft(spectrum, len(samples))


def box_row(number: int, split: Split, digit: Digit, rng: np.random.Generator) -> tuple[dict[str, Any], list[MediaRow]]:
    """A PROMPT row and its media: where is the digit?"""
    width, height = (int(side) for side in rng.integers(BOX_SIDES[0], BOX_SIDES[1] + 1, size=2))
    left, top = int(rng.integers(0, CANVAS - width + 1)), int(rng.integers(0, CANVAS - height + 1))
    canvas = np.zeros((CANVAS, CANVAS), np.uint8)
    resized = Image.fromarray(scan(digit.source)).resize((width, height), Image.Resampling.BILINEAR)
    canvas[top : top + height, left : left + width] = np.asarray(resized)
    media = [media_row("image", to_png(noisy(canvas, CANVAS_NOISE, rng)))]
    extras = {
        "box": [left, top, left + width, top + height],
        "answer": str(digit.value),
        "parity": "odd" if digit.value % 2 else "even",
        "source": digit.source,
    }
    return _row(f"box-{split}-{number:05d}", "locate_digit", "where is the digit ?", media, extras), media


MAKERS = {"digits": digit_row, "boxes": box_row}


def build(out: Path, seed: int, sizes: Sizes = Sizes()) -> list[Path]:
    """Write the data directories; the same arguments give the same bytes. Returns them."""
    written = []
    for number, (name, make) in enumerate(MAKERS.items()):
        parts: tuple[tuple[Split, int], ...] = (("train", sizes.train), ("heldout", sizes.heldout))
        for part, (split, count) in enumerate(parts):
            rng = np.random.default_rng([seed, number, part])
            made = [make(i, split, digit, rng) for i, digit in enumerate(_drawn(digits_of(split), count, rng))]
            media = {row["media_id"]: row for _, rows in made for row in rows}
            written.append(out / name / split)
            records = pa.Table.from_pylist([row for row, _ in made], schema=PROMPT)
            write_records(written[-1], records, pa.Table.from_pylist(list(media.values()), schema=MEDIA))
    return written


def _drawn(digits: Sequence[Digit], count: int, rng: np.random.Generator) -> Iterator[Digit]:
    """Values in turn, so that all are equally frequent; of each value one scan after the other, in random order."""
    by_value = [[d for d in rng.permutation(np.array(digits, object)) if d.value == value] for value in range(10)]
    for i in range(count):
        scans = by_value[i % 10]
        yield scans[(i // 10) % len(scans)]


def _row(prompt_id: str, task: str, question: str, media: Sequence[MediaRow], extras: dict[str, Any]) -> dict[str, Any]:
    kinds = [row["kind"] for row in media]
    content: list[dict[str, str]] = [{"type": kind} for kind in kinds] + [{"type": "text", "text": question}]
    return {
        "prompt_id": prompt_id,
        "messages": json.dumps([{"role": "user", "content": content}]),
        "media_ids": [row["media_id"] for row in media],
        "task": task,
        "modality": "+".join(kinds),
        "extras": json.dumps(extras),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m mmrlhf_ray.demo.discrete_data", description=__doc__)
    parser.add_argument("out", type=Path, help="directory to write to, e.g. runs/discrete-data")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train", type=int, default=Sizes.train, help="rows of each training set")
    parser.add_argument("--heldout", type=int, default=Sizes.heldout, help="rows of each held-out set")
    arguments = parser.parse_args()
    for path in build(arguments.out, arguments.seed, Sizes(arguments.train, arguments.heldout)):
        print(path)


if __name__ == "__main__":
    main()
