"""Where the media of records come from: files that rows name, or a MEDIA table beside them."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from mmrlhf_ray.data.errors import DataError, RowError
from mmrlhf_ray.data.media import MediaLimits, MediaRow, media_id, media_row
from mmrlhf_ray.data.validate import MEDIA_LISTS, MediaPart, Shown, string_list
from mmrlhf_ray.schema import MEDIA


class MediaSource(Protocol):
    """Finds the media of rows."""

    def attach(self, raw: Mapping[str, Any], parts: Sequence[MediaPart]) -> list[Shown]:
        """The media of each part of a row. Raises RowError when one is missing, left over, or of another kind."""
        ...

    def get(self, media_id: str) -> MediaRow:
        """The media; ValueError when the stored bytes are not those that the id names."""
        ...

    def table(self, media_ids: Collection[str]) -> pa.Table:
        """The MEDIA rows with these ids."""
        ...


class FileMedia:
    """Media in files below one directory, each read once."""

    def __init__(self, directory: Path, limits: MediaLimits) -> None:
        self._directory = directory.resolve()
        self._limits = limits
        self._by_path: dict[Path, str] = {}
        self._rows: dict[str, MediaRow] = {}

    def attach(self, raw: Mapping[str, Any], parts: Sequence[MediaPart]) -> list[Shown]:
        if "media_ids" in raw:
            raise RowError("media_ids needs a media.parquet", "name the files of a .jsonl row by their paths")
        return [self._read(kind, name) for kind, name in _name_files(raw, parts)]

    def get(self, media_id: str) -> MediaRow:
        return self._rows[media_id]

    def table(self, media_ids: Collection[str]) -> pa.Table:
        return pa.Table.from_pylist([row for key, row in self._rows.items() if key in media_ids], schema=MEDIA)

    def _read(self, kind: str, name: str) -> Shown:
        path = self._contained(name)
        if path not in self._by_path:
            self._by_path[path] = self._load(kind, name, path)
        media_id = self._by_path[path]
        known = self._rows[media_id]["kind"]
        if known != kind:
            raise RowError(
                f"{name} is used as {kind} here and as {known} elsewhere",
                "extract the track that is meant into its own file",
            )
        return Shown(kind, media_id, name)

    def _load(self, kind: str, name: str, path: Path) -> str:
        try:
            size = path.stat().st_size  # before the bytes are read into memory
            if size > self._limits.bytes:
                raise ValueError(f"{size} bytes, the limit is {self._limits.bytes}")
            row = media_row(kind, path.read_bytes())
        except OSError as error:
            raise RowError(f"{name} cannot be read: {error.strerror}", "make the file readable") from error
        except ValueError as error:
            raise RowError(f"{name}: {error}", "give a smaller file or one of a supported format") from error
        return self._rows.setdefault(row["media_id"], row)["media_id"]

    def _contained(self, name: str) -> Path:
        if "://" in name or name.startswith("data:"):
            raise RowError(f"{name[:80]} is an address", "download the media and give a path; nothing is fetched")
        try:
            path = (self._directory / name).resolve(strict=True)
            inside = path.is_relative_to(self._directory)
            regular = path.is_file()
        except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: symlink loop; ValueError: NUL in the name
            reason = getattr(error, "strerror", None) or str(error)
            raise RowError(f"{name[:200]!r} cannot be opened: {reason}", f"put it below {self._directory}") from error
        if not inside or Path(name).is_absolute():
            raise RowError(
                f"{name} leads out of {self._directory}",
                "put media beside the .jsonl file or below, and give relative paths; links may not lead out",
            )
        if not regular:
            raise RowError(f"{name} is not a regular file", "give the path of a file")
        return path


class TableMedia:
    """Media of a MEDIA table."""

    def __init__(self, table: pa.Table, file: str) -> None:
        try:
            self._table = table.select(MEDIA.names).cast(MEDIA)
        except (KeyError, pa.ArrowInvalid, ValueError) as error:
            raise DataError(f"{file} is no MEDIA table: {error}; it needs columns {MEDIA.names}") from error
        self._file = file
        ids = self._table.column("media_id").to_pylist()
        self._index = {media_id: row for row, media_id in reversed(list(enumerate(ids)))}
        self._kinds = self._table.column("kind").to_pylist()

    def attach(self, raw: Mapping[str, Any], parts: Sequence[MediaPart]) -> list[Shown]:
        named = [part.path for part in parts if part.path] + [key for key in MEDIA_LISTS.values() if raw.get(key)]
        if named:
            raise RowError(f"{named[0]} names media by path", "give media_ids, or keep such rows in a .jsonl file")
        ids = string_list(raw, "media_ids")
        unknown = [i for i in ids if i not in self._index]
        if unknown:
            raise RowError(f"media_id {unknown[0]!r} is not in {self._file}", "add its row to media.parquet")
        kinds = [self._kinds[self._index[i]] for i in ids]
        wanted = [part.kind for part in parts]
        if kinds != wanted:
            raise RowError(
                f"the messages show {_counted(wanted)} but media_ids are {_counted(kinds)}",
                "give one media part per media_id, in the same order",
            )
        return [Shown(kind, i, i) for kind, i in zip(kinds, ids, strict=True)]

    def get(self, media_id: str) -> MediaRow:
        row: MediaRow = self._table.slice(self._index[media_id], 1).to_pylist()[0]
        _check_hash(row)
        return row

    def table(self, media_ids: Collection[str]) -> pa.Table:
        rows = sorted(self._index[media_id] for media_id in media_ids)
        return self._table.take(pa.array(rows, pa.int64()))


def _check_hash(row: MediaRow) -> None:
    if media_id(row["data"]) != row["media_id"]:
        raise ValueError("its bytes are not those that media_id is the sha256 of")


def _name_files(raw: Mapping[str, Any], parts: Sequence[MediaPart]) -> list[tuple[str, str]]:
    """(kind, path) of each part: parts without one take the next file of their kind's list, until none is left."""
    files = {kind: string_list(raw, key) for kind, key in MEDIA_LISTS.items()}
    for kind, key in MEDIA_LISTS.items():
        open_parts = sum(part.kind == kind and not part.path for part in parts)
        if open_parts != len(files[kind]):
            raise RowError(
                f"the text has {open_parts} {kind} placeholder(s) for {len(files[kind])} file(s) in {key}",
                f"give one <{kind}> or {kind} part per file, in order",
            )
    queues = {kind: iter(names) for kind, names in files.items()}
    return [(part.kind, part.path or next(queues[part.kind])) for part in parts]


def _counted(kinds: Sequence[str]) -> str:
    runs = Counter(kinds)
    order = ", ".join(kinds) if len(kinds) <= 8 else ", ".join(f"{n} {kind}" for kind, n in runs.items())
    return f"[{order}]" if kinds else "none"
