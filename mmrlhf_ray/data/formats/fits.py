"""How the formats whose keys fit read the rows of a data set, compared row by row."""

import json
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from mmrlhf_ray.data.errors import RowError
from mmrlhf_ray.data.formats.base import KINDS, Format, Kind, Row, has_label
from mmrlhf_ray.data.formats.chat import TAG
from mmrlhf_ray.data.formats.unread import with_prompt_parts
from mmrlhf_ray.data.validate import MEDIA_LISTS, build_record, conversation
from mmrlhf_ray.errors import DataError
from mmrlhf_ray.schema import TABLES

_NAMES = frozenset({"role", "from", "type"})
"""Keys whose texts are names that formats know."""
_SAY_WHICH = "say which it is with data.format or --format"

_Reading = tuple[Any, ...] | None
"""A row as a record of one kind; None where it cannot be read as one."""


class Fits:
    """The formats that may be that of the rows seen so far."""

    def __init__(self, place: str, fitting: Sequence[Format]) -> None:
        self._first, self.candidates = place, list(fitting)
        self._differ: dict[tuple[str, str], str] = {}
        """(a, b) → the first row that a does not read as b does."""
        self._close: Counter[str] = Counter()
        """How close each came to reading the rows that none reads."""

    def see(self, place: str, row: Row, fitting: Sequence[Format]) -> None:
        """Note one more row, whose keys are those of `fitting`. Raises DataError where no format is left."""
        left = [form for form in self.candidates if form in fitting]
        if not left:
            before, now = _listed(self._covering() or self.candidates), _listed(fitting)
            rows = f"{self._first} and those after it are {before}, {place} is {now}"
            raise DataError(f"no format fits all rows: {rows}; {_SAY_WHICH}")
        self.candidates = left
        if len(left) == 1:
            return
        tries = {form.name: [_tried(form, row, kind) for kind in KINDS] for form in left}
        if all(reading is None for tried in tries.values() for reading, _ in tried):
            self._close.update({name: max(close for _, close in tried) for name, tried in tries.items()})
        for a, mine in tries.items():
            for b, theirs in tries.items():
                if any(other is not None and one != other for (one, _), (other, _) in zip(mine, theirs, strict=True)):
                    self._differ.setdefault((a, b), place)

    def best(self) -> Format:
        """The format that reads every row as all the others do, and comes closest to reading the rest.

        Raises DataError where there is none.
        """
        covering = self._covering()
        if not covering:
            names = {form.name for form in self.candidates}
            where = next(place for pair, place in self._differ.items() if names.issuperset(pair))
            formats = _listed(self.candidates)
            raise DataError(f"the formats {formats} read the rows differently, {where} first; {_SAY_WHICH}")
        return max(covering, key=lambda form: self._close[form.name])  # the first of equals

    def _covering(self) -> list[Format]:
        names = [form.name for form in self.candidates]
        return [form for form in self.candidates if not any((form.name, other) in self._differ for other in names)]


def shape_of(value: Any, key: str = "") -> Hashable:
    """What of a row can matter to how formats read it: keys, types, roles, tags in texts, how many of each.

    Rows of one shape are read, or refused, alike.
    """
    if key == "label":
        return str(type(value)), has_label({key: value})
    if isinstance(value, str):
        tags = tuple(TAG.findall(value)) if "<" in value else ()
        return value if key in _NAMES else (value[:1] in "{[", bool(value), tags, "<bbox>" in value, "<ref-" in value)
    if isinstance(value, Mapping):
        return tuple((k, shape_of(v, k)) for k, v in value.items() if v is not None)
    if isinstance(value, list):
        types = set(map(type, value))
        if types <= {int, float}:
            return (list, *sorted(map(str, types)))
        shapes = [shape_of(item, key) for item in value]
        return (list, len(shapes), shapes[0]) if len(set(shapes)) == 1 else (list, *shapes)
    return str(type(value))


def _listed(formats: Sequence[Format]) -> str:
    return ", ".join(form.name for form in formats)


def _tried(form: Format, row: Row, kind: Kind) -> tuple[_Reading, int]:
    """(the row as a record, how far the format came: its keys first, then the steps of reading)."""
    close = 10 * len(row.keys() & form.keys)
    try:
        if kind not in form.reads:
            return None, 0
        raw = with_prompt_parts(row, form.read(row, kind), form.keys, form.name)
        messages, parts = conversation(raw)
        close += 1 + min(len(parts), 5)
        record = build_record(raw, TABLES[kind], messages, [])
        close += 1
    except RowError:
        return None, close
    lists = {media: raw.get(key) or [] for media, key in MEDIA_LISTS.items()}
    for media, listed in lists.items():
        unnamed = sum(part.kind == media and part.path is None for part in parts)
        if not isinstance(listed, list) or len(listed) != unnamed:
            return None, close
    # Extras are compared as objects; a name made of the content depends on the order of their keys.
    record |= {"extras": json.loads(record["extras"]), "prompt_id": raw.get("prompt_id")}
    return (record, parts, lists), close
