"""Omni-Digits on disk: demonstrations, training prompts and held-out prompts as data directories."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mmrlhf_ray.demo.clips import DIRECTIONS, clip_webm
from mmrlhf_ray.demo.digits import Split, digit_png, digits_of
from mmrlhf_ray.demo.tasks import TASKS, Case, Item, Task, draw_case, respond
from mmrlhf_ray.demo.tones import tone_wav
from mmrlhf_ray.schema import DEMONSTRATION, MEDIA, PROMPT, check

_MIME = {"image": "image/png", "audio": "audio/wav", "video": "video/webm"}
_NOISE = (0.2, 0.8)

# How people demonstrate, and how often. Most of the room that preference learning has comes from here.
STYLES = {"grounded": 0.36, "terse": 0.28, "hallucinated": 0.18, "wrong": 0.18}


@dataclass(frozen=True)
class Sizes:
    """Rows and media to make; the digits themselves are always all of scikit-learn's."""

    demonstrations: int = 6000
    prompts_train: int = 2400
    prompts_heldout: int = 390
    tones: int = 600
    tones_heldout: int = 200
    clips: int = 1200
    clips_heldout: int = 240


FULL = Sizes()
FAST = Sizes(demonstrations=1300, prompts_train=390, prompts_heldout=130, tones=200, tones_heldout=100, clips=240)


@dataclass(frozen=True)
class DataPaths:
    """Data directories, each with records.parquet and media.parquet."""

    demonstrations: Path
    prompts_train: Path
    prompts_heldout: Path


@dataclass(frozen=True)
class _Pool:
    items: dict[str, Sequence[Item]]
    """Kind → things to ask about."""
    media: dict[str, tuple[str, bytes]]
    """media_id → kind, encoded bytes."""


def _pool(split: Split, tones: int, clips: int, rng: np.random.Generator) -> _Pool:
    media: dict[str, tuple[str, bytes]] = {}

    def add(kind: str, data: bytes, digit: int, direction: str = "") -> Item:
        media_id = hashlib.sha256(data).hexdigest()
        media[media_id] = (kind, data)
        return Item(digit, media_id, direction)

    digits = digits_of(split)
    images = [add("image", digit_png(d.source), d.value) for d in digits]
    audio = [add("audio", tone_wav(i % 10, rng, rng.uniform(*_NOISE)), i % 10) for i in range(tones)]
    video = []
    for i in range(clips):
        digit, direction = digits[rng.integers(len(digits))], DIRECTIONS[i % len(DIRECTIONS)]
        video.append(add("video", clip_webm(digit.source, direction), digit.value, direction))
    numbers = [Item(d) for d in range(10)]
    return _Pool({"image": images, "audio": audio, "video": video, "text": numbers}, media)


def _cases(pool: _Pool, count: int, rng: np.random.Generator) -> Iterator[Case]:
    """`count` cases, tasks by weight in turn; every option of a task is the answer equally often."""
    turns: list[Task] = [task for task in TASKS for _ in range(task.weight)]
    asked: Counter[str] = Counter()
    for i in range(count):
        task = turns[i % len(turns)]
        wanted = task.options[asked[task.name] % len(task.options)]
        asked[task.name] += 1
        yield draw_case(task, pool.items, wanted, rng)


def _prompt_row(case: Case, prompt_id: str, **extras: str) -> dict[str, object]:
    kinds = [kind for _, kind in case.task.slots if kind != "text"]
    content: list[dict[str, str]] = [{"type": kind} for kind in kinds]
    content.append({"type": "text", "text": case.question})
    truth = {
        "answer": case.answer,
        "options": list(case.task.options),
        "evidence": case.evidence,
        "facts": case.facts,
    }
    return {
        "prompt_id": prompt_id,
        "messages": json.dumps([{"role": "user", "content": content}]),
        "media_ids": [item.media_id for item in case.items if item.media_id],
        "task": case.task.name,
        "modality": case.task.modality,
        "extras": json.dumps(truth | extras),
    }


def demonstrate(case: Case, rng: np.random.Generator) -> tuple[str, str]:
    """(style, response) as one of many people would write it; see STYLES."""
    style = str(rng.choice(list(STYLES), p=list(STYLES.values())))
    evidence, answer = dict(case.evidence), case.answer
    if style == "hallucinated":
        slot = str(rng.choice(list(evidence)))
        evidence[slot] = str((int(evidence[slot]) + rng.integers(1, 10)) % 10)
    if style == "wrong":
        answer = str(rng.choice([option for option in case.task.options if option != answer]))
    if style == "terse" or (style == "wrong" and rng.random() < 0.5):
        evidence = {}
    return style, respond(answer, evidence)


def _write(path: Path, rows: Iterable[dict[str, object]], schema: pa.Schema, pool: _Pool) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    records = pa.Table.from_pylist(list(rows), schema=schema)
    used = sorted({media_id for row in records.column("media_ids").to_pylist() for media_id in row})
    media = pa.table(
        {
            "media_id": used,
            "kind": [pool.media[m][0] for m in used],
            "mime": [_MIME[pool.media[m][0]] for m in used],
            "data": [pool.media[m][1] for m in used],
        },
        schema=MEDIA,
    )
    pq.write_table(check(records, schema, "demo data"), path / "records.parquet")
    pq.write_table(check(media, MEDIA, "demo data"), path / "media.parquet")
    return path


def build_data(path: Path, seed: int, sizes: Sizes = FULL) -> DataPaths:
    """Write demonstrations, prompts_train and prompts_heldout under `path`; the same arguments give the same bytes.

    Held-out prompts show digits that are in no training prompt or demonstration, and tones and clips of their own.
    """
    media_rng, demo_rng, train_rng, heldout_rng = (np.random.default_rng([seed, i]) for i in range(4))
    train = _pool("train", sizes.tones, sizes.clips, media_rng)
    heldout = _pool("heldout", sizes.tones_heldout, sizes.clips_heldout, media_rng)

    demonstrations = []
    for i, case in enumerate(_cases(train, sizes.demonstrations, demo_rng)):
        style, response = demonstrate(case, demo_rng)
        demonstrations.append(_prompt_row(case, f"demo-{i:05d}", style=style) | {"response": response, "feedback": 0.0})
    asked = [_prompt_row(c, f"train-{i:05d}") for i, c in enumerate(_cases(train, sizes.prompts_train, train_rng))]
    held = [_prompt_row(c, f"held-{i:05d}") for i, c in enumerate(_cases(heldout, sizes.prompts_heldout, heldout_rng))]
    return DataPaths(
        _write(path / "demonstrations", demonstrations, DEMONSTRATION, train),
        _write(path / "prompts_train", asked, PROMPT, train),
        _write(path / "prompts_heldout", held, PROMPT, heldout),
    )
