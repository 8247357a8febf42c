"""Emotions in voices, in the layout of RAVDESS: speech whose files are named by what is acted in them, and by whom.

    Actor_12/03-01-05-02-01-01-12.wav
             03 sound alone, 01 speech, emotion, intensity, sentence, repetition, actor (women have even numbers)

A speaker is in one part only, so that what is measured is how voices fare that were never heard.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from mmrlhf_ray.algorithms.statistics import wilson_interval
from mmrlhf_ray.config import DiscreteConfig
from mmrlhf_ray.data.media import media_row, to_wav
from mmrlhf_ray.discrete.decide import Preferences
from mmrlhf_ray.errors import DataError
from mmrlhf_ray.scenarios.cases import Case
from mmrlhf_ray.scenarios.measures import Decided

CLASSES = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
"""In the order of their codes, 01 to 08."""
_QUIET = frozenset({"neutral", "calm"})
_ALARMING = ["angry", "fearful"]
"""To hear these in somebody who is at ease does harm."""
_SPEECH = ("03", "01")
_WOMEN = "women"
_ACTORS, _RATE, _SECONDS = 24, 8000, 1.2


def read(root: Path) -> Iterator[Case]:
    """A case of each spoken recording. Raises DataError where there is none, and for a name that is not as expected."""
    files = sorted(root.glob("Actor_*/*.wav"))
    if not files:
        raise DataError(f"{root}: expected RAVDESS' Actor_01/03-01-01-01-01-01-01.wav and so on; found none")
    for file in files:
        codes = file.stem.split("-")
        if len(codes) != 7 or not all(code.isdigit() for code in codes) or not 1 <= int(codes[2]) <= len(CLASSES):
            raise DataError(
                f"{file}: expected seven numbers, the third from 01 to {len(CLASSES):02d}; rename or remove it"
            )
        if tuple(codes[:2]) != _SPEECH:
            continue
        said, woman = CLASSES[int(codes[2]) - 1], int(codes[6]) % 2 == 0
        yield Case(
            name=file.stem,
            source=f"actor {codes[6]}",
            text="how does the speaker feel ?",
            media=(media_row("audio", file.read_bytes()),),
            answer=said,
            group=f"speaker {codes[6]}",
            more={"sex": _WOMEN if woman else "men", "harm": _ALARMING if said in _QUIET else []},
        )


def also(
    cfg: DiscreteConfig, decided: Mapping[str, Decided], preferences: Preferences, out: Path
) -> list[tuple[str, str]]:
    """How women and men fare, and how often somebody at ease is taken for angry or afraid."""
    (task,) = decided.values()
    chosen = np.array([task.cases.actions[number] for number in task.scores.argmax(1)])
    right, sexes = chosen == np.array(task.column("answer")), task.column("sex")
    found = []
    for sex in sorted(set(sexes), reverse=True):
        own = right[[one == sex for one in sexes]]
        found.append((f"accuracy, {sex} ({len(own)})", str(wilson_interval(int(own.sum()), len(own)))))
    alarms = sum(name in row["harm"] for name, row in zip(chosen, task.extras, strict=True))
    bound = "" if cfg.reward.cost is None else f" (bound {cfg.reward.cost.bound:g})"
    return [*found, (f"alarms about somebody at ease{bound}", str(wilson_interval(alarms, len(chosen))))]


_PROSODY: Mapping[str, tuple[float, float, float, float, float]] = {
    "neutral": (1.00, 0.02, 4.0, 0.5, 0.0),
    "calm": (0.95, -0.05, 3.2, 0.4, 0.0),
    "happy": (1.25, 0.15, 5.0, 0.7, 0.0),
    "sad": (0.88, -0.15, 2.8, 0.3, 0.0),
    "angry": (1.15, -0.10, 5.2, 1.0, 0.3),
    "fearful": (1.40, 0.05, 6.0, 0.5, 0.5),
    "disgust": (0.90, -0.25, 3.0, 0.6, 0.4),
    "surprised": (1.30, 0.45, 4.2, 0.8, 0.0),
}
"""Emotion → pitch relative to the speaker's, its rise over the sentence, syllables a second, loudness, hoarseness."""


def make(root: Path, seed: int, actors: int = _ACTORS) -> None:
    """Sentences of synthetic voices that have pitch, tempo, loudness and hoarseness of an emotion, and no words. Every
    speaker has a pitch and a timbre of their own, and shows emotions more or less."""
    for actor in range(1, actors + 1):
        rng = np.random.default_rng([seed, actor])
        pitch = rng.normal(200, 15) if actor % 2 == 0 else rng.normal(115, 12)
        tilt, shows = rng.uniform(0.9, 1.6), rng.uniform(0.5, 1.1)
        place = root / f"Actor_{actor:02d}"
        place.mkdir(parents=True)
        for code, name in enumerate(CLASSES, start=1):
            for intensity in (1,) if name == "neutral" else (1, 2):
                for sentence in (1, 2):
                    for repetition in (1, 2):
                        strength = shows * (0.8 if intensity == 1 else 1.2)
                        sound = voice(name, pitch, tilt, strength, sentence, rng)
                        codes = (3, 1, code, intensity, sentence, repetition, actor)
                        file = "-".join(f"{part:02d}" for part in codes)
                        (place / f"{file}.wav").write_bytes(to_wav(sound, _RATE))


def voice(
    emotion: str, pitch: float, tilt: float, strength: float, sentence: int, rng: np.random.Generator
) -> np.ndarray:
    """[n] in [-1, 1] at 8 kHz. pitch: Hz; tilt: how fast overtones fall; strength: 0 neutral, 1 the emotion's row."""
    plain = np.array(_PROSODY["neutral"])
    height, rise, pace, loud, hoarse = plain + strength * (np.array(_PROSODY[emotion]) - plain)
    time = np.arange(int(_SECONDS * _RATE)) / _RATE
    hertz = pitch * height * (1 + rise * (time / _SECONDS - 0.5)) * (1 + 0.02 * rng.normal())
    hertz = hertz * (1 + 0.04 * max(hoarse, 0.0) * rng.normal(size=time.size))
    phase = 2 * np.pi * np.cumsum(hertz) / _RATE
    tone = sum(np.sin(k * phase) / k**tilt for k in range(1, 9))
    syllables = 0.5 - 0.5 * np.cos(2 * np.pi * (pace * time + 0.25 * sentence + rng.uniform(0, 0.3)))
    sound = 0.3 * loud * syllables * (tone + max(hoarse, 0.0) * rng.normal(0.0, 1.0, time.size))
    return np.clip(sound + rng.normal(0.0, 0.03, time.size), -1.0, 1.0)
