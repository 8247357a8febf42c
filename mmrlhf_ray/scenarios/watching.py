"""Anomalies in video and sound, in the layout of XD-Violence: clips whose names end in what happens in them.

    NAME_label_A.mp4          nothing
    NAME_label_B1-0-0.mp4     B1 fighting, B2 shooting, B4 riot, B5 abuse, B6 car accident, G explosion

Of several codes the first counts. A name that begins with `v=` is of a video platform, any other of a film.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mmrlhf_ray.data.media import decode_sound_track, media_row
from mmrlhf_ray.errors import DataError
from mmrlhf_ray.scenarios.cases import Case
from mmrlhf_ray.scenarios.pictures import grey, write_mp4

NAMES = {
    "A": "normal",
    "B1": "fighting",
    "B2": "shooting",
    "B4": "riot",
    "B5": "abuse",
    "B6": "accident",
    "G": "explosion",
}
CLASSES = ("normal", "fighting", "explosion")
"""That the stand-in has."""
_CLIPS = 720
_SHARES = (0.6, 0.2, 0.2)
_SIDE, _FRAMES, _FRAMES_PER_S, _RATE = 32, 12, 6, 8000


def read(root: Path) -> Iterator[Case]:
    """A case of each clip in `root`. Raises DataError for a name without a label, or where there is no clip."""
    clips = sorted(root.glob("*.mp4"))
    if not clips:
        raise DataError(f"{root}: expected XD-Violence's clips, NAME_label_A.mp4 and so on; found no .mp4 file")
    for path in clips:
        name, found, label = path.stem.partition("_label_")
        code = label.split("-")[0]
        if not found or code not in NAMES:
            raise DataError(f"{path}: expected a name that ends in _label_ and one of {', '.join(NAMES)}; rename it")
        clip = path.read_bytes()
        sound = decode_sound_track(clip)
        media = [media_row("video", clip), *([media_row("audio", sound)] if sound else [])]
        yield Case(
            name=path.stem,
            source=name.split("__")[0],
            text="what happens ?",
            media=tuple(media),
            answer=NAMES[code],
            group="platform" if name.startswith("v=") else "film",
        )


def make(root: Path, seed: int, clips: int = _CLIPS) -> None:
    """People as spots who walk, or hit each other, before flashes or none, with and without a bang or cries. Films are
    brighter; on the platform a third of the clips is silent and dark."""
    root.mkdir(parents=True)
    for number in range(clips):
        rng = np.random.default_rng([seed, number])
        what = str(rng.choice(CLASSES, p=_SHARES))
        platform = rng.random() < 0.5
        poor = platform and rng.random() < 0.33
        frames = _frames(what, rng) * (0.25 if poor else 1.0)
        sound = _sound(what, rng)
        if poor:
            sound = 0.02 * sound + rng.normal(0.0, 0.05, sound.size)
        label = {"normal": "A", "fighting": "B1-0-0", "explosion": "G-0-0"}[what]
        name = f"{'v=' if platform else 'Film.'}{number // 3:04d}__#{number % 3}_label_{label}.mp4"
        pictures = [grey(frame + rng.normal(0.0, 0.12, frame.shape)) for frame in frames]
        write_mp4(root / name, pictures, _FRAMES_PER_S, sound, _RATE)


def _frames(what: str, rng: np.random.Generator) -> np.ndarray:
    """0…1 [frames, side, side]."""
    rows, columns = np.mgrid[:_SIDE, :_SIDE]
    places = rng.uniform(6, _SIDE - 6, (3, 2))
    if what == "fighting":
        places[1] = places[0] + rng.uniform(-3, 3, 2)
    pace = rng.normal(0.0, 0.7, (3, 2))
    flash = int(rng.integers(3, _FRAMES - 2)) if what == "explosion" else _FRAMES
    frames = np.full((_FRAMES, _SIDE, _SIDE), 0.2)
    for number in range(_FRAMES):
        for person in range(3):
            hit = what == "fighting" and person < 2
            places[person] += rng.normal(0.0, 2.2, 2) if hit else pace[person]
            row, column = np.clip(places[person], 2, _SIDE - 3)
            frames[number] += 0.6 * np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / 6.0)
        if number >= flash:
            row, column = places[2]
            glow = np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / (20.0 * (number - flash + 1)))
            frames[number] += glow * 0.8 ** (number - flash)
    return np.minimum(frames, 1.0)


def _sound(what: str, rng: np.random.Generator) -> np.ndarray:
    """[n] in [-1, 1]: a street, and a bang or cries in it."""
    seconds = _FRAMES / _FRAMES_PER_S
    time = np.arange(int(seconds * _RATE)) / _RATE
    sound = rng.normal(0.0, 0.05, time.size) + 0.03 * np.sin(2 * np.pi * 90 * time)
    if what == "explosion":
        after = np.maximum(time - rng.uniform(0.4, 1.4), 0.0)
        sound += np.where(after > 0, np.exp(-4 * after), 0.0) * rng.normal(0.0, 0.5, time.size)
    if what == "fighting":
        for start in rng.uniform(0.0, seconds - 0.3, 3):
            inside = (time > start) & (time < start + 0.25)
            sound += inside * 0.3 * np.sin(2 * np.pi * (900 + 1500 * (time - start)) * time)
    return np.clip(sound, -1.0, 1.0)
