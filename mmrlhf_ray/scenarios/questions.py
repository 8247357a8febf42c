"""Questions about pictures, with crops to look closer, in the layout of VQA v2.

    v2_OpenEndedQuestions_mscoco_train2014_questions.json    "questions": question_id, image_id, question of each
    v2_mscoco_train2014_annotations.json                     "annotations": question_id, multiple_choice_answer,
                                                             answer_type of each
    train2014/COCO_train2014_000000000042.jpg

The policy reads the question first. The whole picture, made small, and its quarters are shown when it asks for them.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image

from mmrlhf_ray.config import DiscreteConfig
from mmrlhf_ray.data.media import media_row, to_png
from mmrlhf_ray.discrete.decide import Preferences
from mmrlhf_ray.errors import DataError
from mmrlhf_ray.scenarios.cases import Case
from mmrlhf_ray.scenarios.measures import Decided
from mmrlhf_ray.scenarios.redaction import redacted

PICTURES = "train2014"
QUESTIONS, ANNOTATIONS = (
    f"v2_OpenEndedQuestions_mscoco_{PICTURES}_questions.json", f"v2_mscoco_{PICTURES}_annotations.json"
)  # fmt: skip
_RARE = 0.01
"""Answers that a smaller share of the questions has are left out: a decision needs examples."""


def picture_name(image_id: int) -> str:
    """Of a picture's file."""
    return f"COCO_{PICTURES}_{image_id:012d}.jpg"


def read(root: Path) -> Iterator[Case]:
    """A case of each question whose answer is not a rare one. Raises DataError for a file that is not there or lacks a
    key, and for a question without its answer."""
    questions, annotations = _rows(root, QUESTIONS, "questions"), _rows(root, ANNOTATIONS, "annotations")
    try:
        answers = {row["question_id"]: row for row in annotations}
        asked = [(row, answers[row["question_id"]]) for row in questions]
        counts = Counter(str(answer["multiple_choice_answer"]) for _, answer in asked)
        kept = {answer for answer, count in counts.items() if count >= _RARE * len(asked)}
        left = sum(count for answer, count in counts.items() if answer not in kept)
        print(f"questions: {left} of {len(asked)} have a rare answer and are left out; the others: {sorted(kept)}")
        for row, answer in asked:
            if str(answer["multiple_choice_answer"]) in kept:
                yield _case(root, row, answer)
    except KeyError as error:
        raise DataError(f"{root}: a question or its annotation lacks {error}; look at {QUESTIONS}") from error


def _case(root: Path, row: Mapping[str, Any], answer: Mapping[str, Any]) -> Case:
    file = root / PICTURES / picture_name(row["image_id"])
    if not file.is_file():
        raise DataError(f"{file}: not there, but question {row['question_id']} is about it; add it")
    return Case(
        name=str(row["question_id"]),
        source=str(row["image_id"]),
        text=redacted(str(row["question"])).lower().rstrip(" ?") + " ?",
        media=tuple(media_row("image", data) for data in (file.read_bytes(), *quarters(file))),
        answer=str(answer["multiple_choice_answer"]),
        group=str(answer["answer_type"]),
    )


@lru_cache(maxsize=64)
def quarters(file: Path) -> tuple[bytes, ...]:
    """PNG files of a picture's quarters: top left, top right, bottom left, bottom right. Several questions follow each
    other about one picture, so the last ones are kept."""
    with Image.open(file) as picture:
        width, height = picture.size
        corners = [(left, top) for top in (0, height // 2) for left in (0, width // 2)]
        boxes = [(left, top, left + width // 2, top + height // 2) for left, top in corners]
        return tuple(to_png(picture.crop(box).convert("RGB")) for box in boxes)


def _rows(root: Path, name: str, key: str) -> list[dict[str, Any]]:
    file = root / name
    if not file.is_file():
        raise DataError(f"{root}: expected VQA v2's {QUESTIONS}, {ANNOTATIONS} and {PICTURES}/; found no {name}")
    rows: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))[key]
    return rows


def also(
    cfg: DiscreteConfig, decided: Mapping[str, Decided], preferences: Preferences, out: Path
) -> list[tuple[str, str]]:
    """How often the policy looks before it answers."""
    (task,) = decided.values()
    groups = task.column("group")
    return [
        (f"looks before an answer, {group}", f"{task.asked[[name == group for name in groups]].mean():.2f}")
        for group in sorted(set(groups))
    ]
