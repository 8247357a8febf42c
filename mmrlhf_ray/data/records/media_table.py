"""media.parquet next to records: media by id, without the entire file in memory."""

import threading
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from mmrlhf_ray.data.errors import RowError
from mmrlhf_ray.data.media import MediaRow, media_id
from mmrlhf_ray.data.records.sources import shown_name
from mmrlhf_ray.data.rowfiles.tables import open_parquet, unreadable
from mmrlhf_ray.data.validate import MEDIA_LISTS, MediaPart, Shown, string_list
from mmrlhf_ray.errors import DataError
from mmrlhf_ray.schema import MEDIA

_CACHE_BYTES = 64 << 20


class ParquetMedia:
    """Media of a Parquet file of the MEDIA table: ids and kinds are held, the rest is read a row group at a time."""

    def __init__(self, file: str) -> None:
        """Raises DataError for a file that is not such a table."""
        self._file = file
        self._parquet = open_parquet(file)
        index = self._index()
        self._row = {media_id: row for row, media_id in reversed(list(enumerate(index.column("media_id").to_pylist())))}
        self._kinds = index.column("kind").to_pylist()
        groups = range(self._parquet.metadata.num_row_groups)
        self._ends = np.cumsum([self._parquet.metadata.row_group(group).num_rows for group in groups])
        self._groups: OrderedDict[int, pa.Table] = OrderedDict()
        self._lock = threading.Lock()

    def _index(self) -> pa.Table:
        try:
            missing = set(MEDIA.names) - set(self._parquet.schema_arrow.names)
            if missing:
                raise KeyError("no column " + min(missing))
            return self._parquet.read(columns=["media_id", "kind"]).cast(
                pa.schema([MEDIA.field("media_id"), MEDIA.field("kind")])
            )
        except (KeyError, pa.ArrowInvalid, ValueError) as error:
            raise DataError(f"{self._file} is no MEDIA table: {error}; it needs columns {MEDIA.names}") from error

    def attach(self, raw: Mapping[str, Any], parts: Sequence[MediaPart]) -> list[Shown]:
        """The media of each part of a row, which names them by `media_ids`. Raises RowError."""
        named = [shown_name(part.path) for part in parts if part.path is not None]
        named += [key for key in MEDIA_LISTS.values() if raw.get(key)]
        if named:
            raise RowError(f"{named[0]} names media by path", "give media_ids, or keep such rows in a .jsonl file")
        ids = string_list(raw, "media_ids")
        unknown = [i for i in ids if i not in self._row]
        if unknown:
            raise RowError(f"media_id {unknown[0]!r} is not in {self._file}", "add its row to media.parquet")
        kinds = [self._kinds[self._row[i]] for i in ids]
        wanted = [part.kind for part in parts]
        if kinds != wanted:
            raise RowError(
                f"the messages show [{', '.join(wanted)}] but media_ids are {_listed(kinds)}",
                "give one media part per media_id, in the same order",
            )
        return [Shown(kind, i, i) for kind, i in zip(kinds, ids, strict=True)]

    def get(self, media_id: str) -> MediaRow:
        """The media; ValueError when the stored bytes are not those that the id names."""
        row: MediaRow = self._read(self._row[media_id]).to_pylist()[0]
        _check_hash(row)
        return row

    def table(self, media_ids: Collection[str]) -> pa.Table:
        """The MEDIA rows with these ids, in the order of the file."""
        rows = sorted(self._row[i] for i in media_ids)
        return pa.concat_tables([MEDIA.empty_table(), *(self._read(row) for row in rows)]).combine_chunks()

    def _read(self, row: int) -> pa.Table:
        group = int(np.searchsorted(self._ends, row, side="right"))
        with self._lock:  # media are decoded by several threads, and an open file is for one
            table = self._group(group)
        return table.slice(row - int(self._ends[group]) + len(table), 1)

    def _group(self, group: int) -> pa.Table:
        if group not in self._groups:
            try:
                self._groups[group] = self._parquet.read_row_group(group, columns=MEDIA.names).cast(MEDIA)
            except (OSError, pa.ArrowInvalid) as error:
                raise unreadable(self._file, error) from error
            while len(self._groups) > 1 and sum(table.nbytes for table in self._groups.values()) > _CACHE_BYTES:
                self._groups.popitem(last=False)
        self._groups.move_to_end(group)
        return self._groups[group]


def _listed(kinds: Sequence[str]) -> str:
    return f"[{', '.join(kinds)}]" if kinds else "none"


def _check_hash(row: MediaRow) -> None:
    if media_id(row["data"]) != row["media_id"]:
        raise ValueError("its bytes are not those that media_id is the sha256 of")
