"""Records by position of an endless, seeded sequence.

A store holds its rows, or reads them from files when their turn comes and has only a few fragments in memory. Those who
read from it need not know which.
"""

from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from mmrlhf_ray.config.data import DataConfig
from mmrlhf_ray.data.errors import RowError
from mmrlhf_ray.data.media import MediaRow
from mmrlhf_ray.data.media.augment import augment
from mmrlhf_ray.data.records.order import WINDOW, Order, Place
from mmrlhf_ray.data.records.quarantine import Rejected
from mmrlhf_ray.data.records.rows import ReadRow, Source, SourceReader, name_of
from mmrlhf_ray.data.records.shares import Shares, owner_of
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


class RowStore(Protocol):
    """Rows by position. The same configuration, data and seed give the same record at a position."""

    @property
    def rows(self) -> int:
        """Rows of an epoch."""
        ...

    @property
    def what(self) -> str:
        """The data, in a message about their rows."""
        ...

    def load(self, position: int) -> LoadedRow | Rejected:
        """The record at `position`, from 0, or why the row there cannot be used. Raises DataError for a file that
        fails."""
        ...

    def sample(self, count: int, reader: int = 0, readers: int = 1) -> Iterator[tuple[int, LoadedRow | Rejected]]:
        """`count` rows drawn by the seed, with their numbers; of files those that are served first. Only those of one
        reader, if there are several."""
        ...

    def shares(self, readers: int) -> Shares:
        """Whose rows are whose."""
        ...

    def without(self, numbers: Collection[int]) -> "RowStore":
        """The store, which holds those of sample() with these numbers no longer. In files they stay, and load() gives
        them."""
        ...

    def slice(self, first: int, last: int) -> Iterator[LoadedRow | Rejected]:
        """Rows first … last − 1 in the order of the files."""
        ...


class HeldStore:
    """Rows in memory, shuffled anew each epoch."""

    def __init__(
        self, rows: Sequence[LoadedRow], sources: Sequence[int], weights: Sequence[float], seed: int, what: str
    ) -> None:
        """`sources`: of each row, the number of its data set in the mixture; `weights`: of each data set."""
        self._rows, self._sources, self._weights, self._seed, self.what = rows, sources, weights, seed, what
        by_source: dict[int, list[LoadedRow]] = {number: [] for number in sorted(set(sources))}
        for row, number in zip(rows, sources, strict=True):
            by_source[number].append(row)
        self._by_source = list(by_source.values())
        self._order = Order(tuple((len(own),) for own in self._by_source), tuple(weights[n] for n in by_source), seed)

    @property
    def rows(self) -> int:
        return self._order.rows

    def load(self, position: int) -> LoadedRow:
        place = self._order.place(position)
        return self._by_source[place.source][place.row]

    def sample(self, count: int, reader: int = 0, readers: int = 1) -> Iterator[tuple[int, LoadedRow]]:
        drawn = sorted(np.random.default_rng(self._seed).permutation(len(self._rows))[:count].tolist())
        return ((n, self._rows[n]) for n in drawn if _owner(self._rows[n], readers) == reader)

    def shares(self, readers: int) -> Shares:
        owners = tuple(np.array([_owner(row, readers) for row in own], np.int32) for own in self._by_source)
        return Shares(self._order, readers, owners)

    def without(self, numbers: Collection[int]) -> "HeldStore":
        kept = [number for number in range(len(self._rows)) if number not in numbers]
        rows, sources = [self._rows[n] for n in kept], [self._sources[n] for n in kept]
        return HeldStore(rows, sources, self._weights, self._seed, self.what)

    def slice(self, first: int, last: int) -> Iterator[LoadedRow]:
        return iter(self._rows[first:last])


class FileStore:
    """Rows of files, read when they are asked for."""

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

    @property
    def what(self) -> str:
        return name_of([reader.source for reader in self._readers])

    def load(self, position: int) -> LoadedRow | Rejected:
        place = self.order.place(position)
        row = self._read(place)
        if isinstance(row, Rejected) or not self._training:
            return row
        try:
            record, media = augment(row.record, row.media, self._config, (self._seed, place.epoch, position))
        except ValueError as error:
            return row.rejected(_row_error(error))
        return LoadedRow(replace(row.read, record=dict(record)), tuple(media))

    def sample(self, count: int, reader: int = 0, readers: int = 1) -> Iterator[tuple[int, LoadedRow | Rejected]]:
        shares = self.shares(readers)
        return ((position, self.load(position)) for position in range(count) if shares.of(position) == reader)

    def shares(self, readers: int) -> Shares:
        return Shares(self.order, readers, None)

    def without(self, numbers: Collection[int]) -> "FileStore":
        return self

    def slice(self, first: int, last: int) -> Iterator[LoadedRow | Rejected]:
        return (self._read(self.order.in_file_order(number)) for number in range(first, last))

    def _read(self, place: Place) -> LoadedRow | Rejected:
        reader = self._readers[place.source]
        fragment = reader.source.fragments[place.fragment]
        index, row = self._fragment(place)[place.row]
        media = reader.media()
        read = reader.parse(fragment.file, index, row, media)
        if isinstance(read, Rejected):
            return read
        try:
            return LoadedRow(read, tuple(media.get(shown.media_id) for shown in read.shown))
        except ValueError as error:
            return read.rejected(_row_error(error))

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


def _owner(row: LoadedRow, readers: int) -> int:
    return owner_of(row.record["media_ids"], row.record["prompt_id"], readers)


def _row_error(error: ValueError) -> RowError:
    return error if isinstance(error, RowError) else RowError(str(error), "replace the file")
