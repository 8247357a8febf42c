"""Where converted rows go, a few at a time: JSON lines, Parquet, or our own tables."""

import base64
import json
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import pyarrow as pa
import pyarrow.parquet as pq

from mmrlhf_ray.data.formats import Format, Kind
from mmrlhf_ray.data.media import MediaRow
from mmrlhf_ray.data.rowfiles import MEDIA_FILE, RECORDS_FILE
from mmrlhf_ray.errors import DataError
from mmrlhf_ray.schema import MEDIA, TABLES

MEDIA_DIR = "media"

_ROWS = 256
_MEDIA_ROWS = 64
_ENDINGS = {
    "image/jpeg": "jpg",
    "audio/mpeg": "mp3",
    "audio/mp4": "m4a",
    "video/x-msvideo": "avi",
    "video/ogg": "ogv",
}
"""Usual endings of files, where they are not the second half of the MIME type."""


class RowWriter(Protocol):
    """Context manager that writes rows; the file is complete once it is left without an error."""

    def write(self, row: Mapping[str, Any]) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


class MediaFolder:
    """Media of converted rows: files named by their content, or what stands inside the rows instead."""

    def __init__(self, directory: Path, form: Format, suffix: str) -> None:
        self._directory = directory
        self._uri = form.embeds == "data_uri"
        self._feature = form.embeds == "feature" and suffix == ".parquet"
        self._kept: set[str] = set()
        self.count = 0

    def name(self, media: MediaRow) -> Any:
        """The row's entries for the media."""
        if self._uri:
            return f"data:{media['mime']};base64,{base64.b64encode(media['data']).decode()}"
        if self._feature and media["kind"] == "image":
            return {"bytes": media["data"], "path": file_name(media)}
        return f"{MEDIA_DIR}/{file_name(media)}"

    def keep(self, media: MediaRow) -> None:
        """Write the file that a row names, once."""
        if media["media_id"] in self._kept:
            return
        self._kept.add(media["media_id"])
        self.count += 1
        if isinstance(self.name(media), str) and not self._uri:
            self._directory.mkdir(exist_ok=True)
            (self._directory / file_name(media)).write_bytes(media["data"])


def file_name(media: MediaRow) -> str:
    """Name of the file of some media: the sha256 of its content and an ending that programs know."""
    return f"{media['media_id']}.{_ENDINGS.get(media['mime'], media['mime'].partition('/')[2])}"


def as_columns(row: Mapping[str, Any], extras: Set[str], form: Format) -> dict[str, Any]:
    """A row of `form` as Parquet holds it: of its `extras`, what has no one type goes to JSON text in `extras`.

    Columns would give every row's objects the keys of all others, with nulls.
    """
    moved = {key: row[key] for key in row.keys() & extras - form.objects if not _is_plain(row[key])}
    nested = row.get("extras", {}) | moved
    rest = {key: value for key, value in row.items() if key not in moved and key != "extras"}
    rest |= {key: [rest[key]] for key in form.one_or_several & rest.keys() if not isinstance(rest[key], list)}
    return rest | ({"extras": json.dumps(nested, ensure_ascii=False)} if nested else {})


def _is_plain(value: Any) -> bool:
    """Whether it is a single value, or a list of single values of one type, and whole numbers have 64 bits."""
    items = value if isinstance(value, list) else [value]
    if any(isinstance(item, dict | list) or (isinstance(item, int) and not -(2**63) <= item < 2**63) for item in items):
        return False
    return len({type(item) for item in items}) < 2


class JsonLines:
    """Rows as JSON, one a line."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8")

    def write(self, row: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()


class ParquetRows:
    """Rows as columns. Their types are known only when all rows are, so that rows wait in files of a few each."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows: list[Mapping[str, Any]] = []
        self._parts: list[Path] = []
        self._schemas: list[pa.Schema] = []

    def write(self, row: Mapping[str, Any]) -> None:
        self._rows.append(row)
        if len(self._rows) == _ROWS:
            self._flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self._flush()
            self._join()

    def _flush(self) -> None:
        if not self._rows:
            return
        # Column by column, as Arrow takes the columns of a list of rows from the first of them.
        names = dict.fromkeys(name for row in self._rows for name in row)
        try:
            table = pa.table({name: [row.get(name) for row in self._rows] for name in names})
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
            raise _no_columns(self._path, error) from error
        part = self._path.with_name(f"{self._path.name}.{len(self._parts)}")
        with pa.ipc.new_file(part, table.schema) as writer:
            writer.write_table(table)
        self._parts.append(part)
        self._schemas.append(table.schema)
        self._rows = []

    def _join(self) -> None:
        if not self._parts:
            return
        try:
            schema = pa.unify_schemas(self._schemas, promote_options="permissive")
            with pq.ParquetWriter(self._path, schema) as writer:
                for part in self._parts:
                    with pa.memory_map(str(part)) as file:
                        tables = [schema.empty_table(), pa.ipc.open_file(file).read_all()]
                        writer.write_table(pa.concat_tables(tables, promote_options="permissive"))
                    part.unlink()
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
            raise _no_columns(self._path, error) from error


def _no_columns(path: Path, error: Exception) -> DataError:
    return DataError(f"{path.name}: the rows do not fit into columns of one type each: {error}; write a .jsonl file")


class RecordTables:
    """records.parquet and media.parquet."""

    def __init__(self, path: Path, kind: Kind) -> None:
        path.mkdir()
        # Encoded media neither compress nor repeat; statistics would copy whole clips into the footer.
        plain: dict[str, Any] = {"compression": "none", "use_dictionary": False, "write_statistics": False}
        self._records = pq.ParquetWriter(path / RECORDS_FILE, TABLES[kind])
        self._media = pq.ParquetWriter(path / MEDIA_FILE, MEDIA, **plain)
        self._rows: list[Mapping[str, Any]] = []
        self._clips: list[MediaRow] = []
        self._seen: set[str] = set()

    def write(self, row: Mapping[str, Any]) -> None:
        self._rows.append(row)
        if len(self._rows) == _ROWS:
            self._flush_rows()

    def write_record(self, record: Mapping[str, Any], media: Sequence[MediaRow]) -> int:
        """Write a record and those of its media that are new; returns how many were."""
        self.write(record)
        fresh = {item["media_id"]: item for item in media if item["media_id"] not in self._seen}
        self._seen |= fresh.keys()
        for item in fresh.values():
            self._clips.append(item)
            if len(self._clips) == _MEDIA_ROWS:
                self._flush_media()
        return len(fresh)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._flush_rows()
        self._flush_media()
        self._records.close()
        self._media.close()

    def _flush_rows(self) -> None:
        self._records.write_table(pa.Table.from_pylist(self._rows, schema=self._records.schema))
        self._rows = []

    def _flush_media(self) -> None:
        self._media.write_table(pa.Table.from_pylist(self._clips, schema=MEDIA))
        self._clips = []
