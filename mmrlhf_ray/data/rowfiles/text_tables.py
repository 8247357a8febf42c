"""CSV and TSV: a row of names, then a row of texts per record, as RFC 4180 and spreadsheets write them."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from mmrlhf_ray.data.rowfiles.base import (
    FRAGMENT_BYTES,
    FRAGMENT_ROWS,
    Cells,
    Fragment,
    Row,
    Unreadable,
    reading,
)
from mmrlhf_ray.data.rowfiles.json_rows import go_to, inflated
from mmrlhf_ray.errors import DataError

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_COMMAS = (".csv", ".csv.gz", ".csv.zst")
_LONGEST_FIELD = 1 << 30
_REMEDY = "put fields that hold separators, line breaks or quotes in quotes, and double the quotes inside"

_Fields = list[str] | Unreadable


class TextTables:
    """`.csv` and `.tsv` files, also `.gz` and `.zst`. Compressed ones are read from their start for each fragment.

    Fields of a `.tsv` are separated by tabs, of a `.csv` by commas, or by semicolons where the names are.
    """

    def __init__(self, files: Sequence[str]) -> None:
        self._files = files

    def fragments(self) -> list[Fragment]:
        return [fragment for file in self._files for fragment in self._scan(file)]

    def _scan(self, file: str) -> Iterator[Fragment]:
        first = rows = 0
        with reading(file) as raw:
            lines = inflated(file, raw)
            head = self._head(file, lines)
            begin = at = head.end
            for size, _ in _split(lines, head.separator):
                rows, at = rows + 1, at + size
                if rows == FRAGMENT_ROWS or at - begin >= FRAGMENT_BYTES:
                    yield Fragment(file, first, rows, (begin, at))
                    first, rows, begin = first + rows, 0, at
        if rows:
            yield Fragment(file, first, rows, (begin, at))

    def read(self, fragment: Fragment) -> Iterator[tuple[int, Row]]:
        begin, end = fragment.place
        with reading(fragment.file) as raw:
            lines = inflated(fragment.file, raw)
            head = self._head(fragment.file, lines)
            if lines is raw:
                go_to(lines, True, begin)
            else:
                go_to(lines, False, begin - head.end)
            text = io.BytesIO(lines.read(end - begin))
        for number, (_, fields) in enumerate(_split(text, head.separator), start=fragment.first):
            yield number, _row(head.names, fields)

    def _head(self, file: str, lines: Iterable[bytes]) -> "_Head":
        """Of the file that `lines` are the first ones of; they are read on to its end."""
        separator, lines = "\t", iter(lines)
        start = next(lines, b"")
        if file.endswith(_COMMAS):
            separator = ";" if b";" in start and b"," not in start else ","
        for size, fields in _split(chain([start], lines), separator):
            return _Head(file, size, separator, fields)
        return _Head(file, 0, separator, [])


class _Head:
    """The names of a file's columns."""

    def __init__(self, file: str, end: int, separator: str, fields: _Fields) -> None:
        """Raises DataError for names that are not there, or not different."""
        if isinstance(fields, Unreadable):
            raise DataError(f"{file}: the names of the columns cannot be read: {fields.reason}; {fields.remedy}")
        self.end, self.separator = end, separator
        # A column without a name is an index that pandas wrote.
        self.names = [name.strip() or f"unnamed_{number}" for number, name in enumerate(fields)]
        twice = sorted({name for name in self.names if self.names.count(name) > 1})
        if twice:
            raise DataError(f"{file} has several columns {twice[0]!r}; give each its own name")


def _split(lines: Iterable[bytes], separator: str) -> Iterator[tuple[int, _Fields]]:
    """(bytes up to its end, fields) of each row; blank lines belong to the row behind them."""
    source = _Decoded(lines)
    csv.field_size_limit(_LONGEST_FIELD)  # for all of Python: its 128 kB are less than a picture
    rows = csv.reader(source, delimiter=separator, strict=True)
    while True:
        try:
            fields: _Fields = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            fields = Unreadable(source.shown, f"the row is not CSV: {error}", _REMEDY)
        if not source.is_utf8:
            fields = Unreadable(source.shown, "the row is not UTF-8", "save the file as UTF-8")
        if fields:
            yield source.taken(), fields


class _Decoded:
    """Lines as text, and what was read of them since the last row."""

    def __init__(self, lines: Iterable[bytes]) -> None:
        self._lines = iter(lines)
        self._first = True
        self._size = 0
        self.shown = ""
        """The last line."""
        self.is_utf8 = True

    def __iter__(self) -> "_Decoded":
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self._size += len(line)
        if self._first:
            line = line.removeprefix(_BYTE_ORDER_MARK)
        self._first = False
        self.shown = line.decode("utf-8", "replace")
        self.is_utf8 &= "\ufffd" not in self.shown or _is_utf8(line)
        return self.shown

    def taken(self) -> int:
        size, self._size, self.is_utf8 = self._size, 0, True
        return size


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _row(names: Sequence[str], fields: _Fields) -> Row:
    if isinstance(fields, Unreadable):
        return fields
    if len(fields) != len(names):
        reason = f"the row has {len(fields)} fields, the first row names {len(names)}"
        return Unreadable(",".join(fields), reason, _REMEDY)
    return Cells((name, field or None) for name, field in zip(names, fields, strict=True))
