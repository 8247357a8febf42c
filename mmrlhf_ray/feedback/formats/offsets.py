"""Offsets in text: this project counts Unicode characters, browsers UTF-16 units."""

from collections.abc import Mapping
from typing import Any

from mmrlhf_ray.data.errors import RowError


def utf16(text: str) -> int:
    """Length as browsers count it."""
    return len(text.encode("utf-16-le")) // 2


def characters(text: str, value: Mapping[str, Any]) -> tuple[int, int]:
    """Offsets of a span in characters; browsers count UTF-16. Raises RowError where its text stands elsewhere."""
    start, end, marked = value["start"], value["end"], value.get("text")
    units = text.encode("utf-16-le")
    before, until = units[: 2 * start].decode("utf-16-le", "replace"), units[: 2 * end].decode("utf-16-le", "replace")
    for first, last in ((len(before), len(until)), (start, end)):
        if marked is None or text[first:last] == marked:
            return first, last
    raise RowError(f"the span {start}–{end} does not hold {marked!r}", "export the task again, with its text")
