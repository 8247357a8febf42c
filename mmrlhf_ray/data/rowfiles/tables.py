"""Columns: Parquet and Arrow files."""

from collections.abc import Iterator, Sequence
from functools import lru_cache

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from mmrlhf_ray.data.rowfiles.base import FRAGMENT_BYTES, FRAGMENT_ROWS, Fragment, Row, filesystem, slices, version_of
from mmrlhf_ray.errors import DataError

_OPEN_FILES = 16


class ParquetRows:
    """Parquet files. Within a row group what comes before a fragment is read as well, so groups should be small."""

    def __init__(self, files: Sequence[str]) -> None:
        self._files = files

    def fragments(self) -> list[Fragment]:
        return [fragment for file in self._files for fragment in _scan(file)]

    def read(self, fragment: Fragment) -> Iterator[tuple[int, Row]]:
        group, skipped = fragment.place
        file = open_parquet(fragment.file)
        number, end = fragment.first - skipped, fragment.first + fragment.rows
        try:
            for batch in file.iter_batches(batch_size=fragment.rows, row_groups=[group]):
                if number + len(batch) > fragment.first:
                    own = batch.slice(max(0, fragment.first - number), end - max(number, fragment.first))
                    yield from enumerate(own.to_pylist(), start=max(number, fragment.first))
                number += len(batch)
                if number >= end:
                    return
        except (OSError, pa.ArrowInvalid) as error:
            raise unreadable(fragment.file, error) from error


def _scan(file: str) -> Iterator[Fragment]:
    metadata = open_parquet(file).metadata
    first = 0
    for group in range(metadata.num_row_groups):
        about = metadata.row_group(group)
        bytes_per_row = max(1, about.total_byte_size // max(1, about.num_rows))
        size = max(1, min(FRAGMENT_ROWS, FRAGMENT_BYTES // bytes_per_row))
        for skipped in range(0, about.num_rows, size):
            yield Fragment(file, first + skipped, min(size, about.num_rows - skipped), (group, skipped))
        first += about.num_rows


def open_parquet(file: str) -> pq.ParquetFile:
    """The opened file. Raises DataError."""
    return _parquet(file, version_of(file))


@lru_cache(maxsize=_OPEN_FILES)
def _parquet(file: str, version: tuple[int, ...] | None) -> pq.ParquetFile:
    fs, path = filesystem(file)
    try:
        return pq.ParquetFile(fs.open(path, "rb"), pre_buffer=False)
    except (OSError, ValueError) as error:  # pa.ArrowInvalid is a ValueError
        raise unreadable(file, error) from error


def unreadable(file: str, error: Exception) -> DataError:
    return DataError(f"{file} is not a readable Parquet file: {error}; write it anew")


class ArrowRows:
    """Arrow files, in the file or the stream format: mapped into memory, remote ones after a download."""

    def __init__(self, files: Sequence[str]) -> None:
        self._files = files

    def fragments(self) -> list[Fragment]:
        tables = {file: open_arrow(file) for file in self._files}
        return [f for file, table in tables.items() for f in slices(file, len(table), _rows_of(table))]

    def read(self, fragment: Fragment) -> Iterator[tuple[int, Row]]:
        rows = open_arrow(fragment.file).slice(fragment.first, fragment.rows)
        yield from enumerate(rows.to_pylist(), start=fragment.first)


def _rows_of(table: pa.Table) -> int:
    bytes_per_row = max(1, table.nbytes // max(1, len(table)))
    return max(1, min(FRAGMENT_ROWS, FRAGMENT_BYTES // bytes_per_row))


def open_arrow(file: str) -> pa.Table:
    """The rows of an Arrow file. Raises DataError."""
    return _arrow(file, version_of(file))


@lru_cache(maxsize=_OPEN_FILES)
def _arrow(file: str, version: tuple[int, ...] | None) -> pa.Table:
    try:
        local = fsspec.open_local(f"simplecache::{file}") if "://" in file else file
        try:
            return pa.ipc.open_file(pa.memory_map(local)).read_all()
        except pa.ArrowInvalid:  # the stream format has no magic bytes
            return pa.ipc.open_stream(pa.memory_map(local)).read_all()
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{file} is not a readable Arrow file: {error}; write it anew") from error
