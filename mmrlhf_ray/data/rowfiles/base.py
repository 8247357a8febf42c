"""The interface of every kind of storage: fragments of a few hundred rows, and the rows of a fragment."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol

import fsspec
import pyarrow as pa
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from mmrlhf_ray.config.paths import HUB
from mmrlhf_ray.errors import DataError

FRAGMENT_ROWS = 256
FRAGMENT_BYTES = 8 << 20
"""A fragment ends once it has as much, so that rows with media in them do not fill the memory."""


class Cells(dict[str, Any]):
    """A row of a table of texts: what a text stands for depends on its column. None where the cell is empty."""


@dataclass(frozen=True)
class Unreadable:
    """A row that cannot be read as one."""

    text: str
    """What is there."""
    reason: str
    remedy: str


Row = bytes | dict[str, Any] | Unreadable
"""A row as it is stored: JSON text, or columns; or why it is neither."""


@dataclass(frozen=True)
class Fragment:
    """Rows that lie together and are read together."""

    file: str
    first: int
    """Number in the file of its first row."""
    rows: int
    place: tuple[int, int] = (0, 0)
    """Where it lies, in the storage's own terms."""


class RowFile(Protocol):
    """One data set on some kind of storage."""

    def fragments(self) -> list[Fragment]:
        """All fragments in order, after one scan that reads no more than it must. Raises DataError."""
        ...

    def read(self, fragment: Fragment) -> Iterator[tuple[int, Row]]:
        """(number in the file, row) of each row of one of fragments(). Raises DataError."""
        ...


def filesystem(path: str) -> tuple[AbstractFileSystem, str]:
    """Of a local path or a URL. Raises DataError for a protocol that is not known."""
    if "://" not in path:
        return LocalFileSystem(), path  # fsspec would take `a::b` for a chain of file systems
    try:
        return fsspec.url_to_fs(path)
    except (ValueError, ImportError) as error:
        raise DataError(f"{path} cannot be opened: {error}; give a local path or a URL that fsspec knows") from error


def version_of(path: str) -> tuple[int, ...] | None:
    """Another one once a local file or directory is replaced; None of a remote one, which is taken to stay as it is.

    What is kept of an opened file is kept under both: a process that lives on must not read what was there before.
    """
    if path.startswith(HUB):
        return None
    fs, inside = filesystem(path)
    if not isinstance(fs, LocalFileSystem):
        return None
    try:
        found = os.stat(inside)
    except OSError:  # said by whoever opens it
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


@contextmanager
def reading(path: str) -> Iterator[BinaryIO]:
    """The file, opened; what goes wrong inside becomes DataError."""
    fs, inside = filesystem(path)
    try:
        with fs.open(inside, "rb") as file:
            yield file
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}; fix the file") from error
    except ValueError as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} cannot be read: {error}; download the file and give its path") from error


def slices(file: str, rows: int, size: int = FRAGMENT_ROWS) -> list[Fragment]:
    """Fragments of rows that can be read from anywhere."""
    return [Fragment(file, first, min(size, rows - first)) for first in range(0, rows, size)]
