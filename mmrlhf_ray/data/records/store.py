"""Records by position of an endless, seeded sequence; of the data sets only a few fragments are in memory."""

from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from mmrlhf_ray.config.data import DataConfig
from mmrlhf_ray.data.errors import RowError
from mmrlhf_ray.data.media import MediaRow
from mmrlhf_ray.data.media.augment import augment
from mmrlhf_ray.data.records.order import WINDOW, Order, Place
from mmrlhf_ray.data.records.quarantine import Rejected
from mmrlhf_ray.data.records.rows import ReadRow, Source, SourceReader
from mmrlhf_ray.data.rowfiles import Row
from mmrlhf_ray.errors import DataError

_FRAGMENTS_HELD = 2 * WINDOW
"""Of each source: the window that is read, and the one before, as several readers work on one sequence."""


@dataclass(frozen=True)
class LoadedRow:
    """A record with what it shows, not yet decoded."""

    read: ReadRow
    media: tuple[MediaRow, ...]
    """In the order of the record's `media_ids`."""

    @property
    def record(self) -> dict[str, Any]:
        return self.read.record

    def rejected(self, error: RowError) -> Rejected:
        """The row as a bad one."""
        return self.read.rejected(error)


class RowStore:
    """Reads any position. The same configuration, sources and seed give the same record at a position."""

    def __init__(
        self, config: DataConfig, schema: pa.Schema, sources: tuple[Source, ...], seed: int, *, training: bool = True
    ) -> None:
        """`training`: shuffled and, where `config.augment` says so, with changed media; else the rows as they lie."""
        self._config, self._seed, self._training = config, seed, training
        self.order = order_of(sources, seed, shuffle=training)
        self._readers = [SourceReader(source, config, schema) for source in sources]
        self._held: OrderedDict[tuple[int, int], list[tuple[int, Row]]] = OrderedDict()

    @property
    def rows(self) -> int:
        """Rows of all sources, bad ones counted."""
        return self.order.rows

    def load(self, position: int) -> LoadedRow | Rejected:
        """The record at `position`, or why the row there cannot be used. Raises DataError for a file that fails."""
        place = self.order.place(position)
        reader = self._readers[place.source]
        fragment = reader.source.fragments[place.fragment]
        index, row = self._fragment(place)[place.row]
        media = reader.media()
        read = reader.parse(fragment.file, index, row, media)
        if isinstance(read, Rejected):
            return read
        try:
            shown = tuple(media.get(shown.media_id) for shown in read.shown)
            if not self._training:
                return LoadedRow(read, shown)
            record, changed = augment(read.record, shown, self._config, (self._seed, place.epoch, position))
            return LoadedRow(replace(read, record=dict(record)), tuple(changed))
        except ValueError as error:
            return read.rejected(error if isinstance(error, RowError) else RowError(str(error), "replace the file"))

    def _fragment(self, place: Place) -> list[tuple[int, Row]]:
        key = (place.source, place.fragment)
        if key not in self._held:
            reader = self._readers[place.source]
            fragment = reader.source.fragments[place.fragment]
            rows = list(reader.raw(fragment))
            if len(rows) != fragment.rows:
                raise DataError(f"{fragment.file} was changed while it was read; start again")
            self._held[key] = rows
            while len(self._held) > _FRAGMENTS_HELD * len(self._readers):
                self._held.popitem(last=False)
        self._held.move_to_end(key)
        return self._held[key]


def order_of(sources: tuple[Source, ...], seed: int, *, shuffle: bool = True) -> Order:
    """The sequence in which the rows of a mixture are read."""
    sizes = tuple(tuple(fragment.rows for fragment in source.fragments) for source in sources)
    return Order(sizes, tuple(source.config.weight for source in sources), seed, shuffle)
