"""Built-in reward for boxes that a response writes down."""

import re
from collections.abc import Sequence
from typing import Any

Box = tuple[float, float, float, float]
"""x1, y1, x2, y2 with x1 < x2 and y1 < y2, in whatever unit column and response share."""

_NUMBER = r"\s*(-?\d+(?:\.\d+)?)\s*"
_BOX = re.compile(r"[\[(]" + ",".join([_NUMBER] * 4) + r"[\])]")


def iou(
    prompts: Sequence[str],
    completions: Sequence[str],
    *,
    key: str = "boxes",
    threshold: float | None = None,
    **columns: Any,
) -> list[float | None]:
    """Intersection over union of the boxes `[x1, y1, x2, y2]` in the response with those in the column, in [0, 1].

    The column holds one box or a list of boxes; a row without any is not applicable. Boxes are paired off greedily,
    the best pair first; the sum over pairs is divided by the larger number of boxes, so that boxes too many or too few
    cost. threshold: a pair counts 1 from there on, else 0.
    """
    if threshold is not None and not 0 < threshold <= 1:
        raise ValueError(f"threshold expects a number above 0 and up to 1, got {threshold}")
    scores: list[float | None] = []
    for row, (text, truth) in enumerate(zip(completions, columns[key], strict=True)):
        wanted = _true_boxes(truth, f"{key}, row {row} of the batch")
        said = [_box(found) for found in _BOX.findall(text)]
        scores.append(_matched(said, wanted, threshold) if wanted else None)
    return scores


def overlap_share(a: Box, b: Box) -> float:
    """Area that two boxes share over the area that they cover together; 0 for a box without area."""
    shared = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    covered = _area(a) + _area(b) - shared
    return shared / covered if covered > 0 else 0.0


def _matched(said: Sequence[Box], wanted: Sequence[Box], threshold: float | None) -> float:
    pairs = sorted(
        ((overlap_share(a, b), i, j) for i, a in enumerate(said) for j, b in enumerate(wanted)), reverse=True
    )
    taken_said: set[int] = set()
    taken_wanted: set[int] = set()
    total = 0.0
    for share, i, j in pairs:
        if i in taken_said or j in taken_wanted:
            continue
        taken_said.add(i)
        taken_wanted.add(j)
        total += share if threshold is None else float(share >= threshold)
    return total / max(len(said), len(wanted))


def _true_boxes(truth: Any, where: str) -> list[Box]:
    if truth is None:
        return []
    boxes = truth if truth and isinstance(truth[0], list) else [truth]
    for box in boxes:
        if len(box) != 4 or not (box[0] < box[2] and box[1] < box[3]):
            raise ValueError(f"{where}: expected [x1, y1, x2, y2] with x1 < x2 and y1 < y2, got {box}")
    return [_box(box) for box in boxes]


def _box(numbers: Sequence[Any]) -> Box:
    x1, y1, x2, y2 = map(float, numbers)
    return x1, y1, x2, y2


def _area(box: Box) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])
