"""JSON: one record per line, compressed or not, or one list of records; a file may be either, whatever its ending."""

import io
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import pyarrow as pa

from mmrlhf_ray.data.rowfiles.base import FRAGMENT_BYTES, FRAGMENT_ROWS, Fragment, Row, RowFile, reading
from mmrlhf_ray.data.rowfiles.json_object import JSONObject, holds_records
from mmrlhf_ray.errors import DataError

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_CODECS = {".gz": "gzip", ".zst": "zstd"}
_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{},]', re.DOTALL)
_SHOWN_BYTES = 40
_SKIP_BYTES = 1 << 20


class JSONFiles:
    """`.json`, `.jsonl`, `.ndjson` files. Each is read as it is laid out: a record per line, one list, one object."""

    def __init__(self, files: Sequence[str]) -> None:
        self._files = files
        self._laid_out: dict[str, RowFile] = {}

    def fragments(self) -> list[Fragment]:
        return [fragment for file in self._files for fragment in self._of(file).fragments()]

    def read(self, fragment: Fragment) -> Iterator[tuple[int, Row]]:
        return self._of(fragment.file).read(fragment)

    def _of(self, file: str) -> RowFile:
        if file not in self._laid_out:
            self._laid_out[file] = _laid_out(file)
        return self._laid_out[file]


def _laid_out(file: str) -> RowFile:
    with reading(file) as raw:
        head = raw.read(4096).removeprefix(_BYTE_ORDER_MARK)
        if head.lstrip().startswith(b"["):
            return JSONList([file])
        raw.seek(0)
        contents = (content for number, line in enumerate(raw) if (content := _content(number, line)))
        first, second = next(contents, b""), next(contents, b"")
        if _is_cut(first) and second:
            raw.seek(0)
            if isinstance(_parsed(raw.read()), dict):
                return JSONObject(file)
            if first.strip() == b"{" and second.lstrip().startswith(b'"'):
                raise DataError(f"{file} has records that go over several lines; write one a line, or a list of all")
            return JSONLines([file])
    return JSONObject(file) if not second and holds_records(_parsed(first)) else JSONLines([file])


def _parsed(text: bytes) -> Any:
    """What JSON stands for, None where it is none."""
    try:
        return json.loads(text.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return None


def _is_cut(line: bytes) -> bool:
    """Whether a line is the begin of an object that other lines end."""
    try:
        json.loads(line)
    except json.JSONDecodeError as error:
        return error.pos >= len(error.doc.rstrip())
    except (ValueError, RecursionError):
        return False
    return False


class JSONLines:
    """One record per line, also compressed (`.gz`, `.zst`): then read from the start for each fragment."""

    def __init__(self, files: Sequence[str]) -> None:
        self._files = files

    def fragments(self) -> list[Fragment]:
        return [fragment for file in self._files for fragment in self._scan(file)]

    def _scan(self, file: str) -> Iterator[Fragment]:
        first = rows = begin = at = number = 0
        with reading(file) as raw:
            for number, line in enumerate(inflated(file, raw)):
                if not rows:
                    first, begin = number, at
                at += len(line)
                rows += bool(_content(number, line))
                if rows == FRAGMENT_ROWS or (rows and at - begin >= FRAGMENT_BYTES):
                    yield Fragment(file, first, rows, (begin, at))
                    rows = 0
        if rows:
            yield Fragment(file, first, rows, (begin, at))

    def read(self, fragment: Fragment) -> Iterator[tuple[int, Row]]:
        begin, end = fragment.place
        with reading(fragment.file) as raw:
            lines = inflated(fragment.file, raw)
            go_to(lines, raw is lines, begin)
            for number, line in enumerate(io.BytesIO(lines.read(end - begin)), start=fragment.first):
                content = _content(number, line)
                if content:
                    yield number, content


class JSONList:
    """Files that hold one list each."""

    def __init__(self, files: Sequence[str]) -> None:
        self._files = files

    def fragments(self) -> list[Fragment]:
        return [fragment for file in self._files for fragment in self._scan(file)]

    def _scan(self, file: str) -> Iterator[Fragment]:
        with reading(file) as raw:
            text = raw.read()
        first, begin, rows, end = 0, None, 0, 0
        for begin_of_row, end in _elements(file, text):
            begin = begin_of_row if begin is None else begin
            rows += 1
            if rows == FRAGMENT_ROWS or end - begin >= FRAGMENT_BYTES:
                yield Fragment(file, first, rows, (begin, end))
                first, begin, rows = first + rows, None, 0
        if begin is not None:
            yield Fragment(file, first, rows, (begin, end))

    def read(self, fragment: Fragment) -> Iterator[tuple[int, Row]]:
        begin, end = fragment.place
        with reading(fragment.file) as raw:
            raw.seek(begin)
            text = b"[" + raw.read(end - begin) + b"]"
        for number, (start, stop) in enumerate(_elements(fragment.file, text), start=fragment.first):
            yield number, text[start:stop]


def _elements(file: str, text: bytes) -> Iterator[tuple[int, int]]:
    """(begin, end) of each element of a JSON list."""
    depth, begin = 0, 0
    for token in _TOKEN.finditer(text):
        mark = token.group()
        if mark in (b"[", b"{"):
            depth += 1
            if depth == 1:
                begin = token.end()
        elif mark in (b"]", b"}"):
            depth -= 1
        if (depth == 1 and mark == b",") or (depth == 0 and mark == b"]"):
            if text[begin : token.start()].strip():
                yield begin, token.start()
            begin = token.end()
        if depth == 0:
            if rest := text[token.end() :].strip():
                began = rest[:_SHOWN_BYTES].decode("utf-8", "replace")
                raise DataError(f"{file} goes on with {began!r} after its list ends; put all records into one list")
            return
    raise DataError(f"{file} is cut off: the list that it holds has no end; write it anew")


def _content(number: int, line: bytes) -> bytes:
    """The line, or nothing if it is blank."""
    content = line.removeprefix(_BYTE_ORDER_MARK) if number == 0 else line
    return content if content.strip() else b""


def inflated(file: str, raw: BinaryIO) -> BinaryIO:
    """The content of a file that may be compressed, by its ending; `raw` itself where it is not."""
    codec = _CODECS.get(file[file.rfind(".") :])
    if codec is None:
        return raw
    return io.BufferedReader(pa.CompressedInputStream(raw, codec))


def go_to(lines: BinaryIO, seekable: bool, begin: int) -> None:
    """Move on to `begin`, from the start or, where that cannot be sought, from where `lines` stand."""
    if seekable:
        lines.seek(begin)
        return
    while begin:
        begin -= len(lines.read(min(begin, _SKIP_BYTES)))
