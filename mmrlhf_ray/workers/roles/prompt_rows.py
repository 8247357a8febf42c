"""Where the prompt encoder's rows come from: all of them held, or read from a store when their turn comes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from mmrlhf_ray.data.encoding.encode import RawMedia
from mmrlhf_ray.data.errors import RowError
from mmrlhf_ray.data.media import MediaRow
from mmrlhf_ray.data.records.order import Order
from mmrlhf_ray.data.records.quarantine import Rejected
from mmrlhf_ray.data.records.readers import Records
from mmrlhf_ray.data.records.store import RowStore


@dataclass(frozen=True)
class PromptRow:
    """A PROMPT record with its media by id."""

    record: Mapping[str, Any]
    media: Mapping[str, MediaRow]
    rejected: Callable[[RowError], Rejected]
    """The row as a bad one."""
    source: int = 0
    """Number of its data set in the mixture."""

    @property
    def clips(self) -> list[RawMedia]:
        """What it shows, in the order of its parts."""
        rows = [self.media[media_id] for media_id in self.record["media_ids"]]
        return [RawMedia(row["media_id"], row["kind"], row["data"]) for row in rows]


class PromptRows(Protocol):
    """Prompts by position of an endless sequence."""

    @property
    def rows(self) -> int:
        """Rows of an epoch."""
        ...

    def at(self, position: int) -> PromptRow | Rejected:
        """What stands at `position`, from 0."""
        ...


class HeldRows:
    """Rows in memory, shuffled anew each epoch."""

    def __init__(self, rows: Sequence[PromptRow], weights: Sequence[float], seed: int) -> None:
        """`weights`: of each data set of the mixture."""
        by_source = {n: [row for row in rows if row.source == n] for n in sorted({row.source for row in rows})}
        self._by_source = list(by_source.values())
        sizes = tuple((len(own),) for own in self._by_source)
        self._order = Order(sizes, tuple(weights[n] for n in by_source), seed)

    @property
    def rows(self) -> int:
        return self._order.rows

    def at(self, position: int) -> PromptRow | Rejected:
        place = self._order.place(position)
        return self._by_source[place.source][place.row]


def held_rows(records: Records) -> list[PromptRow]:
    """Every record with its media."""
    media: dict[str, MediaRow] = {row["media_id"]: row for row in records.media.to_pylist()}

    def row(number: int, record: dict[str, Any]) -> PromptRow:
        def rejected(error: RowError) -> Rejected:
            return Rejected(records.bad_row(number, record["prompt_id"], error.reason, error.remedy), record)

        return PromptRow(record, media, rejected, records.sources[number] if records.sources else 0)

    return [row(number, record) for number, record in enumerate(records.records.to_pylist())]


class StoredRows:
    """Rows of a store, read when they are asked for."""

    def __init__(self, store: RowStore) -> None:
        self._store = store

    @property
    def rows(self) -> int:
        return self._store.rows

    def at(self, position: int) -> PromptRow | Rejected:
        loaded = self._store.load(position)
        if isinstance(loaded, Rejected):
            return loaded
        media = dict(zip(loaded.record["media_ids"], loaded.media, strict=True))
        return PromptRow(loaded.record, media, loaded.rejected)
