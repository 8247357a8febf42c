"""Omni-Digits for a policy with tools: a large picture with one small digit that can only be read after `crop`, a
minute of sound whose tones can only be heard after `hear`, and a digit and a tone that need neither.

`python -m mmrlhf_ray.demo.looking OUT` writes model, recordings and data; jobs/looking-*.yaml train on them.
"""

import argparse
import io
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
from PIL import Image

from mmrlhf_ray.data.media import MediaRow, media_row, to_png, to_wav
from mmrlhf_ray.demo import recordings
from mmrlhf_ray.demo.digits import SIDE, Split, digit_png, digits_of
from mmrlhf_ray.demo.model import build_model
from mmrlhf_ray.demo.recordings import SECONDS
from mmrlhf_ray.demo.tones import SAMPLE_RATE, tone
from mmrlhf_ray.schema import DEMONSTRATION, MEDIA, PROMPT, check, modality_of

CELLS = 4
"""A large picture has this many digits' room on a side; the sampler and the learner see all of it as large as one."""
RECORDINGS, MINUTE, BLOCK = 40, 60, 10
"""How many there are, and seconds: of each, and from one tone to the next."""
NOISE = 0.3
FAR = ("far_picture", "far_sound")
TASKS = (*FAR, "near_picture", "near_sound")

_ASKS_TOOL, _NEEDLESS, _WRONG = 0.5, 0.25, 0.15
"""Shares of demonstrations: that use the tool where it is needed, that use it where it is not, and wrong answers."""
_BOXES = tuple(str(round(1000 * i / CELLS)) for i in range(CELLS + 1))


@dataclass(frozen=True)
class Sizes:
    """Rows of each task."""

    demonstrations: int = 2500
    prompts_train: int = 300
    prompts_heldout: int = 100


@dataclass(frozen=True)
class Asked:
    """A question, the tool's call that answers it, and what the call shows."""

    task: str
    question: str
    digit: int
    shown: tuple[MediaRow, ...]
    """With the question."""
    call: str
    seen: MediaRow


def words() -> list[str]:
    """What questions, calls and answers are made of, beyond the words of Omni-Digits."""
    names = [f"rec{i}" for i in range(RECORDINGS)]
    seconds = [str(BLOCK * i) for i in range(MINUTE // BLOCK)]
    said = (
        "which digit is somewhere in the large picture ? is written sounds recording after seconds crop hear answer :"
    )
    return list(dict.fromkeys([*said.split(), *names, *seconds, *_BOXES]))


def write_recordings(directory: Path, rng: np.random.Generator) -> dict[tuple[str, int], tuple[int, MediaRow]]:
    """FLAC files of a minute with a tone at the start of every block. (recording, second) → the digit that sounds
    there, and what `hear` plays. The tool lies next to them."""
    directory.mkdir(parents=True)
    shutil.copy(recordings.__file__, directory / "tool.py")
    found = {}
    for number in range(RECORDINGS):
        sound = rng.normal(0.0, 0.01, MINUTE * SAMPLE_RATE).astype(np.float32)
        digits = {second: int(rng.integers(10)) for second in range(0, MINUTE, BLOCK)}
        for second, digit in digits.items():
            wave, start = tone(digit, rng, NOISE), second * SAMPLE_RATE
            sound[start : start + len(wave)] += wave
        file = directory / f"rec{number}.flac"
        soundfile.write(file, sound, SAMPLE_RATE, subtype="PCM_16")
        kept, _ = soundfile.read(file, dtype="float32")
        for second, digit in digits.items():
            start = second * SAMPLE_RATE
            found[f"rec{number}", second] = digit, _wav(kept[start : start + round(SECONDS * SAMPLE_RATE)])
    return found


def _wav(samples: np.ndarray) -> MediaRow:
    return media_row("audio", to_wav(samples, SAMPLE_RATE))


def _png(picture: Image.Image) -> MediaRow:
    return media_row("image", to_png(picture))


def _picture(digit_source: int) -> Image.Image:
    return Image.open(io.BytesIO(digit_png(digit_source))).convert("L")


def _far_picture(split: Split, rng: np.random.Generator) -> Asked:
    digits = digits_of(split)
    digit = digits[rng.integers(len(digits))]
    row, column = (int(i) for i in rng.integers(CELLS, size=2))
    large, small = Image.new("L", (CELLS * SIDE, CELLS * SIDE)), _picture(digit.source)
    large.paste(small, (column * SIDE, row * SIDE))
    box = " ".join((_BOXES[column], _BOXES[row], _BOXES[column + 1], _BOXES[row + 1]))
    question = "which digit is somewhere in the large picture ?"
    return Asked("far_picture", question, digit.value, (_png(large),), f"crop {box}", _png(small))


def _near_picture(split: Split, rng: np.random.Generator) -> Asked:
    digits = digits_of(split)
    digit = digits[rng.integers(len(digits))]
    shown = _png(_picture(digit.source))
    call = f"crop {_BOXES[0]} {_BOXES[0]} {_BOXES[-1]} {_BOXES[-1]}"
    return Asked("near_picture", "which digit is written ?", digit.value, (shown,), call, shown)


@dataclass(frozen=True)
class _Sounds:
    """What is heard in which recording; held-out questions are of moments of their own."""

    heard: dict[tuple[str, int], tuple[int, MediaRow]]
    moments: dict[Split, list[tuple[str, int]]]

    @classmethod
    def of(cls, heard: dict[tuple[str, int], tuple[int, MediaRow]], rng: np.random.Generator) -> "_Sounds":
        order = [list(heard)[i] for i in rng.permutation(len(heard))]
        held = len(order) // 4
        return cls(heard, {"heldout": order[:held], "train": order[held:]})

    def far(self, split: Split, rng: np.random.Generator) -> Asked:
        recording, second = self.moments[split][rng.integers(len(self.moments[split]))]
        digit, played = self.heard[recording, second]
        question = f"which digit sounds in recording {recording} after {second} seconds ?"
        return Asked("far_sound", question, digit, (), f"hear {recording} {second}", played)


def _near_sound(split: Split, rng: np.random.Generator) -> Asked:
    digit = int(rng.integers(10))
    shown = _wav(tone(digit, rng, NOISE))
    return Asked("near_sound", "which digit sounds ?", digit, (shown,), "hear rec0 0", shown)


def _user(clips: tuple[MediaRow, ...], text: str = "") -> dict[str, Any]:
    content: list[dict[str, str]] = [{"type": clip["kind"]} for clip in clips]
    return {"role": "user", "content": [*content, {"type": "text", "text": text}] if text else content}


def _row(asked: Asked, prompt_id: str, later: tuple[MediaRow, ...] = ()) -> dict[str, Any]:
    messages = [_user(asked.shown, asked.question)]
    if later:
        messages += [{"role": "assistant", "content": [{"type": "text", "text": asked.call}]}, _user(later)]
    shown = (*asked.shown, *later)
    return {
        "prompt_id": prompt_id,
        "messages": json.dumps(messages),
        "media_ids": [clip["media_id"] for clip in shown],
        "task": asked.task,
        "modality": modality_of({clip["kind"] for clip in shown}),
        "extras": json.dumps({"answer": str(asked.digit)}),
    }


def _demonstrations(asked: Asked, name: str, rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    """As people of whom few use the tool where they must, and some where they need not, would show it."""
    wrong = rng.random() < _WRONG
    answer = f"answer : {(asked.digit + int(rng.integers(1, 10))) % 10 if wrong else asked.digit}"
    far = asked.task in FAR
    if rng.random() < (_ASKS_TOOL if far else _NEEDLESS):
        yield _row(asked, f"{name}-call") | {"response": asked.call, "feedback": 0.0}
        yield _row(asked, f"{name}-answer", (asked.seen,)) | {"response": answer, "feedback": 0.0}
    else:
        guess = f"answer : {rng.integers(10)}" if far else answer
        yield _row(asked, name) | {"response": guess, "feedback": 0.0}


def _write(path: Path, rows: list[dict[str, Any]], schema: pa.Schema, clips: dict[str, MediaRow]) -> None:
    path.mkdir(parents=True)
    used = {media_id: clips[media_id] for row in rows for media_id in row["media_ids"]}
    pq.write_table(check(pa.Table.from_pylist(rows, schema=schema), schema, str(path)), path / "records.parquet")
    pq.write_table(pa.Table.from_pylist(list(used.values()), schema=MEDIA), path / "media.parquet")


def build(path: Path, seed: int = 0, sizes: Sizes = Sizes()) -> None:
    """Write `base` (a model), `recordings`, `demonstrations`, `prompts_train` and `prompts_heldout` under `path`."""
    build_model(path / "base", seed, words())
    rng = np.random.default_rng(seed)
    sounds = _Sounds.of(write_recordings(path / "recordings", rng), rng)
    draw: dict[str, Callable[[Split, np.random.Generator], Asked]] = {
        "far_picture": _far_picture,
        "far_sound": sounds.far,
        "near_picture": _near_picture,
        "near_sound": _near_sound,
    }
    clips: dict[str, MediaRow] = {}

    def drawn(split: Split, count: int) -> Iterator[tuple[str, Asked]]:
        for number in range(count):
            for task in TASKS:
                asked = draw[task](split, rng)
                clips.update({clip["media_id"]: clip for clip in (*asked.shown, asked.seen)})
                yield f"{split}-{task}-{number}", asked

    shown = [row for name, asked in drawn("train", sizes.demonstrations) for row in _demonstrations(asked, name, rng)]
    _write(path / "demonstrations", shown, DEMONSTRATION, clips)
    asked: dict[Split, int] = {"train": sizes.prompts_train, "heldout": sizes.prompts_heldout}
    for split, count in asked.items():
        _write(path / f"prompts_{split}", [_row(one, name) for name, one in drawn(split, count)], PROMPT, clips)


def main() -> None:
    """Write all to the directory that the command line names. Exit status 2 where it exists."""
    parser = argparse.ArgumentParser(prog="python -m mmrlhf_ray.demo.looking", description=__doc__)
    parser.add_argument("out", type=Path, help="directory to write, e.g. runs/looking")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.out.exists():
        parser.error(f"{arguments.out} exists already; choose another directory")
    build(arguments.out, arguments.seed)
    print(arguments.out)


if __name__ == "__main__":
    main()
