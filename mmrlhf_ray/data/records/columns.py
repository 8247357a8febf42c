"""`data.columns`: keys of rows under the names that formats know them by, before anything else looks at a row."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from mmrlhf_ray.data.errors import RowError
from mmrlhf_ray.data.rowfiles.base import Cells, Row, Unreadable
from mmrlhf_ray.data.validate import MEDIA_LISTS, check_depth, parse_json
from mmrlhf_ray.errors import DataError

Columns = Mapping[str, str | None]
"""Key of a row → what it is called from then on, None = left out."""

_JOINED_BY = "\n"
_CHATS = ("messages", "conversations", "objects", "tools")
_MEDIA = ("images", "audios", "videos", "captions")
_ANSWERS = ("responses", "ranks", "aspects", "completions", "answers")
_LISTS = frozenset((*_CHATS, *_MEDIA, *_ANSWERS, "extras", "reward_model", "extra_info"))
_SCORES = ("feedback", "margin", "score_chosen", "score_rejected", "overall_score")
_VERDICTS = ("better_response_id", "overall_response", "more_helpful_response_id", "safer_response_id")
_NUMBERS = frozenset((*_SCORES, *_VERDICTS, "offset"))
_YES_OR_NO = frozenset(("label", "kto_tag", "is_response_0_safe", "is_response_1_safe"))
"""Keys of formats whose values are no texts, for rows of tables that hold nothing else."""


def object_of(row: Row, columns: Columns) -> dict[str, Any]:
    """A row as it is stored, parsed, under the names that `columns` give its keys; null is absent. Raises RowError."""
    found = {key: value for key, value in _parsed(row).items() if value is not None}  # null is absent, as in Parquet
    named = renamed(found, columns)
    return {key: _of_cell(key, value) for key, value in named.items()} if isinstance(row, Cells) else named


def check_columns(rows: Iterable[Row], columns: Columns, path: str) -> None:
    """Raise DataError for a key of `columns` that none of the rows has. Reads no further than it must."""
    lacking = dict.fromkeys(columns)
    seen: dict[str, None] = {}
    for row in rows if lacking else ():
        try:
            keys = _parsed(row).keys()
        except RowError:
            continue
        lacking = {key: None for key in lacking if key not in keys}
        if not lacking:
            return
        seen |= dict.fromkeys(keys)
    if lacking:
        raise DataError(
            f"{path}: data.columns names {', '.join(lacking)}, which no row has; the rows have {', '.join(seen)}"
        )


def renamed(row: Mapping[str, Any], columns: Columns) -> dict[str, Any]:
    """The row with its keys under other names. Texts of several keys with one name are joined by a line break, in the
    order of `columns`. Raises RowError where the row has the name already, or where what is joined is not text."""
    if not columns:
        return dict(row)
    named = {key: value for key, value in row.items() if key not in columns}
    given: dict[str, list[Any]] = {}
    for key, name in columns.items():
        if name is not None and key in row:
            given.setdefault(name, []).append(row[key])
    for name, values in given.items():
        if name in named:
            raise RowError(
                f"data.columns gives the name {name} to another key, and the row has that already",
                f"leave its own out with {name}: null (--columns {name}=), or choose another name",
            )
        named[name] = values[0] if len(values) == 1 else _joined(name, values)
    return named


def _joined(name: str, values: list[Any]) -> str:
    if not all(isinstance(value, str) for value in values):
        raise RowError(f"data.columns makes {name} of several keys, which are not all text", "name one key for it")
    return _JOINED_BY.join(value for value in values if value)


def _parsed(row: Row) -> dict[str, Any]:
    if isinstance(row, Unreadable):
        raise RowError(row.reason, row.remedy)
    if isinstance(row, dict):
        check_depth(row, "the row")
        return row
    parsed = parse_json(row, "the line")
    if not isinstance(parsed, dict):
        raise RowError(f"the line is a JSON {type(parsed).__name__}, expected an object", 'write {"prompt": …}')
    return parsed


def _of_cell(key: str, text: Any) -> Any:
    """What the text of a cell stands for, where that is known; else the text, which the check of the row looks at."""
    if not isinstance(text, str):
        return text
    if key in _YES_OR_NO:
        return {"true": True, "false": False}.get(text.lower(), text)
    if key in _NUMBERS or (key in _LISTS and text.lstrip()[:1] in ("[", "{")):
        with suppress(RowError):
            return parse_json(text, key)
    return [text] if key in MEDIA_LISTS.values() else text
