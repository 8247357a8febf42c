"""From the records of a task to its cases."""

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from mmrlhf_ray.config.data import DataConfig
from mmrlhf_ray.config.discrete import DiscreteConfig
from mmrlhf_ray.config.discrete_parts import (
    AudioModality,
    DecideTask,
    ImageModality,
    LocateTask,
    Modality,
    TextModality,
    VideoModality,
)
from mmrlhf_ray.data.errors import RowError, bad_rows_error
from mmrlhf_ray.data.media import Clip
from mmrlhf_ray.data.media.decode_pool import DecodeSettings, decode_pool
from mmrlhf_ray.data.records.readers import Records
from mmrlhf_ray.discrete.cases import Cases, Column
from mmrlhf_ray.discrete.front_end import front_end
from mmrlhf_ray.discrete.spaces import action_names, grid_boxes, modality_space
from mmrlhf_ray.errors import DataError
from mmrlhf_ray.rewards.boxes import overlap_share

_PER_BATCH = 64


def cases_of(cfg: DiscreteConfig, task: str, part: str, read: Records) -> Cases:
    """The cases in `read`, the records of `tasks.<task>.<part>` ("train" or "heldout"), every medium decoded.

    Raises DataError for a row without a usable label or box.
    """
    section = cfg.tasks[task]
    data: DataConfig = getattr(section, part)
    where = f"tasks.{task}.{part}"
    records = wanted(read, section.record_tasks, f"tasks.{task}.record_tasks")
    decoded = Media(records.media, data)
    columns = columns_of(cfg, records, decoded)  # first, as boxes need the sizes of the pictures
    score = _box_scores(section, cfg, decoded) if isinstance(section, LocateTask) else _class_scores(section)
    return make_cases(cfg, task, records, columns, scores_of(records, score, where))


def costs_of(cfg: DiscreteConfig, task: str, part: str, read: Records) -> np.ndarray | None:
    """float32 [n, decisions]: 1 for what `reward.cost` says does harm; None without a cost.

    The rows are those of cases_of(). Raises DataError for a row that names no class of the task.
    """
    section, cost = cfg.tasks[task], cfg.reward.cost
    if cost is None:
        return None
    names, key = action_names(section), cost.of

    def harmful(row: Mapping[str, Any]) -> np.ndarray:
        said = json.loads(row["extras"]).get(key, [])
        unknown = [name for name in said if name not in names] if isinstance(said, list) else [said]
        if unknown:
            raise RowError(
                f"its {key} names {unknown[0]!r}, expected a list of its task's decisions", "fix it, or leave it out"
            )
        return np.array([float(name in said) for name in names], np.float32)

    records = wanted(read, section.record_tasks, f"tasks.{task}.record_tasks")
    return scores_of(records, harmful, f"tasks.{task}.{part}")


def wanted(records: Records, tasks: Sequence[str] | None, where: str) -> Records:
    """The records of these tasks. Raises DataError where there are none."""
    if tasks is None:
        return records
    kept = [task in tasks for task in records.records.column("task").to_pylist()]
    if not any(kept):
        there = ", ".join(sorted(set(records.records.column("task").to_pylist())))
        raise DataError(f"{where}={list(tasks)}: {records.file} has none of these, only {there}; change the key")
    return records.kept(kept)


class Media:
    """Decoded media of a data set, each decoded once for each use that is made of it."""

    def __init__(self, table: pa.Table, data: DataConfig) -> None:
        self._bytes = {row["media_id"]: (row["kind"], row["data"]) for row in table.to_pylist()}
        self._pool = decode_pool(DecodeSettings.of(data))
        self.sizes: dict[str, tuple[int, int]] = {}
        """Width and height in pixels, as stored, of the pictures that arrays() was asked for."""

    def nth(self, media_ids: Sequence[str], kind: str, index: int) -> str | None:
        """The media_id of the row's `index`-th medium of a kind, or None."""
        found = [media_id for media_id in media_ids if self._bytes[media_id][0] == kind]
        return found[index] if index < len(found) else None

    def arrays(self, media_ids: Sequence[str], modality: Modality) -> np.ndarray:
        """[media, …] as a Column keeps them. Raises DataError for what cannot be decoded."""
        space = modality_space(modality)
        pictures = isinstance(modality, ImageModality | VideoModality)
        made = np.zeros((len(media_ids), *space.shape), np.uint8 if pictures else space.dtype)
        rate = modality.sampling_rate if isinstance(modality, AudioModality) else None
        for first in range(0, len(media_ids), _PER_BATCH):
            ids = media_ids[first : first + _PER_BATCH]
            try:
                decoded = self._pool.decode([self._bytes[i] for i in ids], rate)
            except ValueError as error:
                raise DataError(
                    f"a medium that was read before cannot be decoded: {error}; look at the file"
                ) from error
            for number, (media_id, medium) in enumerate(zip(ids, decoded, strict=True), start=first):
                if isinstance(medium, Image.Image):
                    self.sizes[media_id] = medium.size
                made[number] = fitted(medium, modality)
        return made


def columns_of(cfg: DiscreteConfig, records: Records, media: Media) -> dict[str, Column]:
    """Modality → its column."""
    rows = records.records.to_pylist()
    return {name: _column(rows, modality, media) for name, modality in cfg.observation.modalities.items()}


def make_cases(
    cfg: DiscreteConfig, task: str, records: Records, columns: Mapping[str, Column], scores: np.ndarray
) -> Cases:
    """Cases of records whose columns, and scores float32 [n, decisions], are known."""
    rows = records.records.to_pylist()
    return Cases(
        task=task,
        task_number=list(cfg.tasks).index(task),
        tasks=len(cfg.tasks),
        actions=action_names(cfg.tasks[task]),
        columns=columns,
        scores=scores,
        prompt_ids=tuple(row["prompt_id"] for row in rows),
        messages=tuple(row["messages"] for row in rows),
        media_ids=tuple(tuple(row["media_ids"]) for row in rows),
    )


def scores_of(records: Records, score: Callable[[Mapping[str, Any]], np.ndarray], where: str) -> np.ndarray:
    """float32 [n, decisions] by a function of one record. Raises DataError that lists all its wrong rows."""
    scores, bad = [], []
    for number, row in enumerate(records.records.to_pylist()):
        try:
            scores.append(score(row))
        except RowError as error:
            bad.append(records.bad_row(number, row["prompt_id"], error.reason, error.remedy))
    if bad:
        raise bad_rows_error(bad, f"{where}: {len(bad)} of {len(records.records)} rows cannot be decided")
    return np.stack(scores).astype(np.float32)


def class_scores(said: str, classes: Sequence[str], score: str) -> np.ndarray:
    """[classes]: accuracy, or F1 of sets of words, of each class where `said` is right."""
    if score == "accuracy":
        return np.array([float(name == said) for name in classes], np.float32)
    truth = set(said.split())
    return np.array([_f1(set(name.split()), truth) for name in classes], np.float32)


def picture_array(picture: Image.Image, modality: ImageModality | VideoModality) -> np.ndarray:
    """uint8 [channels, height, width] of a picture, resized where its size differs."""
    if picture.size != (modality.width, modality.height):
        picture = picture.resize((modality.width, modality.height), Image.Resampling.BILINEAR)
    array = np.asarray(picture.convert("L" if modality.channels == 1 else "RGB"), np.uint8)
    return array[None] if modality.channels == 1 else array.transpose(2, 0, 1)


def clip_array(frames: np.ndarray, modality: VideoModality) -> np.ndarray:
    """uint8 [frames, channels, height, width] of RGB frames [n, height, width, 3], evenly over the clip."""
    chosen = np.linspace(0, len(frames) - 1, modality.frames).round().astype(int)
    return np.stack([picture_array(Image.fromarray(frames[i]), modality) for i in chosen])


def sound_array(samples: np.ndarray, modality: AudioModality) -> np.ndarray:
    """float32 [seconds · sampling_rate] of mono samples at that rate: cut off, or filled up with silence."""
    length = round(modality.seconds * modality.sampling_rate)
    return np.pad(np.clip(samples[:length], -1.0, 1.0), (0, max(0, length - len(samples)))).astype(np.float32)


def text_array(text: str, modality: TextModality) -> np.ndarray:
    """int64 [words]: 1 + a hash of each lower-case word, 0 after the last. The hash is the same everywhere."""
    words = text.lower().split()[: modality.words]
    hashed = [1 + zlib.crc32(word.encode("utf-8", "surrogatepass")) % (modality.buckets - 1) for word in words]
    return np.array(hashed + [0] * (modality.words - len(words)), np.int64)


def message_text(messages: str) -> str:
    """The text parts of JSON messages, joined by blanks."""
    said: list[str] = []
    for message in json.loads(messages):
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        said += [part["text"] for part in parts if part["type"] == "text"]
    return " ".join(said)


_FIT: Mapping[type, Callable[[Any, Any], np.ndarray]] = {
    ImageModality: picture_array,
    AudioModality: lambda samples, modality: front_end(sound_array(samples, modality), modality),
    VideoModality: lambda clip, modality: clip_array(clip.frames, modality),
}


def fitted(medium: Image.Image | np.ndarray | Clip, modality: Modality) -> np.ndarray:
    """A decoded medium as a Column keeps it, without the first dimension."""
    return _FIT[type(modality)](medium, modality)


def _column(rows: Sequence[Mapping[str, Any]], modality: Modality, media: Media) -> Column:
    if isinstance(modality, TextModality):
        texts = [_text(row, modality.column) for row in rows]
        numbers = {text: number for number, text in enumerate(dict.fromkeys(t for t in texts if t))}
        hashed = [text_array(text, modality) for text in numbers]
        array = np.stack(hashed) if hashed else np.zeros((0, modality.words), np.int64)
        return Column(array, np.array([numbers.get(text, -1) for text in texts], np.int64))
    shown = [media.nth(row["media_ids"], modality.kind, modality.index) for row in rows]
    ids = list(dict.fromkeys(media_id for media_id in shown if media_id is not None))
    places = {media_id: number for number, media_id in enumerate(ids)}
    numbers_of = [-1 if media_id is None else places[media_id] for media_id in shown]
    return Column(media.arrays(ids, modality), np.array(numbers_of, np.int64))


def _text(row: Mapping[str, Any], column: str | None) -> str:
    """A row's text; empty where it has none."""
    said = message_text(row["messages"]) if column is None else json.loads(row["extras"]).get(column)
    return str(said).strip() if said is not None else ""


def _class_scores(task: DecideTask) -> Callable[[Mapping[str, Any]], np.ndarray]:
    def score(row: Mapping[str, Any]) -> np.ndarray:
        extras = json.loads(row["extras"])
        if task.label not in extras:
            raise RowError(f"extras has no {task.label!r}", f"it has {_names(extras)}; name one of them as `label`")
        scores = class_scores(str(extras[task.label]), task.classes, task.score)
        if not scores.any():
            remedy = "add the class, or keep only the records of this task with `record_tasks`"
            raise RowError(f"its {task.label} {extras[task.label]!r} is none of the classes", remedy)
        return scores

    return score


def _box_scores(task: LocateTask, cfg: DiscreteConfig, media: Media) -> Callable[[Mapping[str, Any]], np.ndarray]:
    boxes = [tuple(map(float, box)) for box in grid_boxes(task.grid)]
    on = cfg.observation.modalities[task.modality]
    index = on.index if isinstance(on, ImageModality) else 0

    def score(row: Mapping[str, Any]) -> np.ndarray:
        extras = json.loads(row["extras"])
        media_id = media.nth(row["media_ids"], "image", index)
        if media_id is None:
            raise RowError("it shows no picture that a box could be on", "leave the row out")
        box = extras.get(task.box)
        width, height = media.sizes[media_id]
        if not _is_box(box, width, height):
            expected = f"[x1, y1, x2, y2] in pixels within {width} × {height}, x1 < x2 and y1 < y2"
            raise RowError(f"its {task.box} is {box!r}, expected {expected}", f"fix it; extras has {_names(extras)}")
        truth = (box[0] / width, box[1] / height, box[2] / width, box[3] / height)
        return np.array([overlap_share(candidate, truth) for candidate in boxes], np.float32)  # type: ignore[arg-type]

    return score


def _is_box(box: Any, width: int, height: int) -> bool:
    numbers = isinstance(box, list) and len(box) == 4 and all(isinstance(x, int | float) for x in box)
    return numbers and 0 <= box[0] < box[2] <= width and 0 <= box[1] < box[3] <= height


def _f1(said: set[str], truth: set[str]) -> float:
    """2 · |both| / (|said| + |truth|): the harmonic mean of precision and recall; 1 for two empty sets."""
    return 2 * len(said & truth) / (len(said) + len(truth)) if said or truth else 1.0


def _names(extras: Mapping[str, Any]) -> str:
    return ", ".join(sorted(extras)) or "nothing"
