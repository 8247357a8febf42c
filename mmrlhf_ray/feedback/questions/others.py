"""Carried by an answer of any kind, checked: two texts, and places inside a picture, a response or the time."""

import math
from collections.abc import Mapping
from typing import Any, TypedDict

from mmrlhf_ray.feedback.questions.base import (
    AnswerError,
    Asked,
    check_list,
    check_text,
    check_whole,
    named,
)
from mmrlhf_ray.feedback.regions import KIND_IN, NUMBERS, REGION_KINDS, Region

MOST_REGIONS = 50
_SMALLEST = 0.001
"""Width and height of a box as shares of the picture, and the length of a range in seconds."""
_ROUNDING = 1e-6
"""By which a box may end outside: sums of shares are not exact."""
_KEYS = ("kind", "index", "extent", "aspect", "claim", "note")


class Others(TypedDict):
    """The fields of every Answer."""

    critique: str
    comment: str
    regions: tuple[Region, ...]


def others(answer: Mapping[str, Any], asked: Asked) -> Others:
    """What an answer of any kind may carry, checked. Raises AnswerError."""
    return {
        "critique": check_text(answer.get("critique"), "critique", asked),
        "comment": check_text(answer.get("comment"), "comment", asked),
        "regions": check_regions(answer.get("regions"), asked),
    }


def check_regions(value: Any, asked: Asked) -> tuple[Region, ...]:
    """The regions of an answer, () for none. Raises AnswerError that names the region and what is wrong with it."""
    if value is None:
        return ()
    given = check_list(value, "regions")
    if len(given) > MOST_REGIONS:
        raise AnswerError("regions", f"at most {MOST_REGIONS} are taken, got {len(given)}")
    return tuple(_region(entry, f"regions[{i}]", asked) for i, entry in enumerate(given))


def _region(entry: Any, field: str, asked: Asked) -> Region:
    if not isinstance(entry, Mapping):
        raise AnswerError(field, f"expected an object, got {named(entry)}")
    unknown = sorted(entry.keys() - set(_KEYS))
    if unknown:
        raise AnswerError(f"{field}.{unknown[0][:80]}", f"no such field; expected {', '.join(_KEYS)}")
    kind = entry.get("kind")
    if kind not in REGION_KINDS:
        raise AnswerError(f"{field}.kind", f"expected one of {', '.join(REGION_KINDS)}, got {named(kind)}")
    places = asked.responses if kind == "text" else asked.media
    index = check_whole(entry.get("index"), f"{field}.index", 0, len(places) - 1)
    if kind != "text" and KIND_IN[asked.media[index]] != kind:
        raise AnswerError(f"{field}.kind", f"medium {index} is of the kind {asked.media[index]}, which has no {kind}")
    extent = check_list(entry.get("extent"), f"{field}.extent")
    if len(extent) != NUMBERS[kind]:
        raise AnswerError(f"{field}.extent", f"a {kind} takes {NUMBERS[kind]} numbers, got {len(extent)}")
    if kind == "text":
        checked: tuple[float, ...] = _characters(extent, f"{field}.extent", asked.responses[index])
    elif kind == "box":
        checked = _box(extent, f"{field}.extent")
    else:
        checked = _range(extent, f"{field}.extent", asked)
    return Region(
        kind,
        index,
        checked,
        _aspect(entry.get("aspect"), f"{field}.aspect", asked),
        _claim(entry.get("claim"), f"{field}.claim", asked),
        check_text(entry.get("note"), f"{field}.note", asked),
    )


def check_seconds(value: Any, field: str, asked: Asked) -> float:
    """A time in a sound or clip. Raises AnswerError."""
    return _number(value, field, 0, asked.max_seconds)


def _number(value: Any, field: str, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise AnswerError(field, f"expected a number, got {named(value)}")
    if not low <= value <= high:
        raise AnswerError(field, f"expected a number from {low:g} to {high:g}, got {value:g}")
    return float(value)


def _box(extent: list[Any], field: str) -> tuple[float, ...]:
    left, top = (_number(extent[i], f"{field}[{i}]", 0, 1) for i in (0, 1))
    width, height = (_number(extent[i], f"{field}[{i}]", _SMALLEST, 1) for i in (2, 3))
    if left + width > 1 + _ROUNDING or top + height > 1 + _ROUNDING:
        raise AnswerError(field, "the box ends outside of the picture")
    return left, top, min(width, 1 - left), min(height, 1 - top)


def _range(extent: list[Any], field: str, asked: Asked) -> tuple[float, ...]:
    start, end = (check_seconds(value, f"{field}[{i}]", asked) for i, value in enumerate(extent))
    if end - start < _SMALLEST:
        raise AnswerError(field, f"ends at {end:g} s, which is not after its start at {start:g} s")
    return start, end


def _characters(extent: list[Any], field: str, text: str) -> tuple[int, int]:
    start, end = (check_whole(value, f"{field}[{i}]", 0, len(text)) for i, value in enumerate(extent))
    if start >= end:
        raise AnswerError(field, f"ends at {end}, which is not after its start at {start}")
    return start, end


def _aspect(value: Any, field: str, asked: Asked) -> str:
    if value in (None, ""):
        return ""
    if value not in asked.aspects:
        raise AnswerError(field, f"no such aspect; expected {', '.join(asked.aspects)}")
    return str(value)


def _claim(value: Any, field: str, asked: Asked) -> tuple[int, int, int] | None:
    if value is None:
        return None
    if not isinstance(value, list | tuple) or len(value) != 3:
        raise AnswerError(field, f"expected [response, start, end], got {named(value)}")
    response = check_whole(value[0], f"{field}[0]", 0, len(asked.responses) - 1)
    return response, *_characters(list(value[1:]), field, asked.responses[response])
