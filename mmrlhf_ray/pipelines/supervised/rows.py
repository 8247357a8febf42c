"""Rows of "train" and "eval" as the workers see them: held in Ray's object store, or read when their turn comes."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import ray

from mmrlhf_ray.config.base import TrainJobConfig
from mmrlhf_ray.config.data import DataConfig
from mmrlhf_ray.data.batches.stream import RowCheck, StreamPlan, stream, stream_batches
from mmrlhf_ray.data.encoding.training_rows import EncodeOptions
from mmrlhf_ray.data.records.order import Order, Place
from mmrlhf_ray.data.records.quarantine import Rejected, set_row_aside, settle
from mmrlhf_ray.data.records.rows import name_of, open_sources
from mmrlhf_ray.data.records.store import order_of
from mmrlhf_ray.schema import TRAINING_ROW

_BLOCK_ROWS = 256
"""Of held rows: those that travel together."""


@dataclass(frozen=True)
class Share:
    """Who asks for rows: one rank of a run."""

    cfg: TrainJobConfig
    run_dir: Path
    rank: int
    world_size: int


class TrainingRows(Protocol):
    """Batches of TRAINING_ROW. Small: it travels to every worker."""

    @property
    def count(self) -> int:
        """Rows of an epoch."""
        ...

    def steps(self, epochs: int, batch_size: int) -> int:
        """How many full batches there are in `epochs`."""
        ...

    def train_batches(self, share: Share, steps: range) -> Iterator[pa.Table]:
        """A rank's share of the batch of each step. A step has the same rows in the same order, whichever `steps` begin
        with and however many ranks share them. Raises DataError."""
        ...

    def eval_batches(self, share: Share) -> Iterator[pa.Table]:
        """A rank's share of all rows; every rank gets as many tables. Raises DataError."""
        ...


@dataclass(frozen=True)
class HeldRows:
    """Rows in Ray's object store, from which each worker takes its own share of every batch."""

    sizes: tuple[tuple[int, ...], ...]
    """Of each source, the rows of each block: first the records', then, if there are any, those added to them."""
    seed: int
    added_share: float = 0.0
    """Of the rows of a batch, to within one, those that come from what was added."""
    blocks: tuple[tuple["ray.ObjectRef[pa.Table]", ...], ...] = ()
    """Of each source, what is in them; empty until it is known."""

    @classmethod
    def planned(cls, count: int, seed: int) -> "HeldRows":
        """So many rows, which are to come."""
        return cls((_block_sizes(count),), seed)

    def mixed(self, count: int, share: float) -> "HeldRows":
        """With so many rows added, which make up this share of the batches."""
        return replace(self, sizes=(*self.sizes, _block_sizes(count)), added_share=share)

    def holding(self, *tables: pa.Table) -> "HeldRows":
        """With the rows of each source, which are copied to the store."""
        blocks = tuple(_stored(*source) for source in zip(self.sizes, tables, strict=True))
        return replace(self, blocks=blocks)

    @property
    def count(self) -> int:
        """So many that the records are read once, with what is added between them."""
        return int(sum(self.sizes[0]) / (1.0 - self.added_share))

    def steps(self, epochs: int, batch_size: int) -> int:
        """An epoch leaves out the rows that do not fill a batch."""
        return epochs * (self.count // batch_size)

    def train_batches(self, share: Share, steps: range) -> Iterator[pa.Table]:
        """Epoch after epoch, each in an order of its own: that of Order, whatever the number of workers."""
        weights = (round(1.0 - self.added_share, 6), round(self.added_share, 6))[: len(self.sizes)]
        order, size = Order(self.sizes, weights, self.seed), share.cfg.batch_size
        own = size // share.world_size
        places = deque[list[Place]]()
        for step in steps:
            epoch, batch = divmod(step, self.count // size)
            first = epoch * self.count + batch * size + share.rank * own
            places.append([order.place(position) for position in range(first, first + own)])
            self._fetch(places[-1])
            if len(places) > 1:
                yield self._taken(places.popleft())
        yield from map(self._taken, places)

    def eval_batches(self, share: Share) -> Iterator[pa.Table]:
        order = Order(self.sizes, (1.0,), self.seed, shuffle=False)
        for first in range(0, self.count, share.cfg.batch_size):
            last = min(first + share.cfg.batch_size, self.count)
            yield self._taken([order.place(row) for row in range(first + share.rank, last, share.world_size)])

    def _fetch(self, places: Sequence[Place]) -> None:
        """Have the blocks brought to this node; nothing waits."""
        blocks = [self.blocks[source][block] for source, block in {(p.source, p.fragment) for p in places}]
        ray.wait(blocks, num_returns=len(blocks), timeout=0)

    def _taken(self, places: Sequence[Place]) -> pa.Table:
        wanted = list({(place.source, place.fragment) for place in places})
        found = ray.get([self.blocks[source][block] for source, block in wanted])
        blocks = dict(zip(wanted, found, strict=True))
        rows = [blocks[place.source, place.fragment].slice(place.row, 1) for place in places]
        return pa.concat_tables([TRAINING_ROW.empty_table(), *rows]).combine_chunks()


def _block_sizes(count: int) -> tuple[int, ...]:
    return tuple(min(_BLOCK_ROWS, count - first) for first in range(0, count, _BLOCK_ROWS))


def _stored(sizes: Sequence[int], table: pa.Table) -> tuple["ray.ObjectRef[pa.Table]", ...]:
    return tuple(ray.put(table.slice(number * _BLOCK_ROWS, size)) for number, size in enumerate(sizes))


@dataclass(frozen=True)
class StreamedRows:
    """Rows that each worker reads from the files, its own share of every batch, from the exact position on."""

    plan: StreamPlan

    @property
    def count(self) -> int:
        """Bad rows counted."""
        return order_of(self.plan.sources, self.plan.seed).rows

    def steps(self, epochs: int, batch_size: int) -> int:
        """A batch may have rows of two epochs, so that only the last epoch may leave out some."""
        return epochs * self.count // batch_size

    def check_first(self, run_dir: Path) -> None:
        """Read the rows that are to be checked before the start. Raises DataError as settle()."""
        config = self.plan.config
        checked = config.rows_to_check(self.count)
        rejected: list[Rejected] = []
        for block in stream(self.plan, range(checked)):
            rejected += block.rejected
        settle(rejected, checked - len(rejected), name_of(self.plan.sources), config.on_bad_row, run_dir)

    def train_batches(self, share: Share, steps: range) -> Iterator[pa.Table]:
        """Fewer rows where some are bad."""
        size = share.cfg.batch_size // share.world_size
        firsts = (step * share.cfg.batch_size + share.rank * size for step in steps)
        return self._batches([range(first, first + size) for first in firsts], share.run_dir)

    def eval_batches(self, share: Share) -> Iterator[pa.Table]:
        rows, size = self.count, share.cfg.batch_size
        firsts = range(0, rows, size)
        shares = [range(first + share.rank, min(first + size, rows), share.world_size) for first in firsts]
        return self._batches(shares, share.run_dir)

    def _batches(self, shares: list[range], run_dir: Path) -> Iterator[pa.Table]:
        aside = partial(set_row_aside, on_bad_row=self.plan.config.on_bad_row, quarantine_to=run_dir)
        return stream_batches(self.plan, shares, aside)


def open_streams(
    cfg: TrainJobConfig,
    data: Mapping[str, DataConfig],
    schema: pa.Schema,
    options: Callable[[DataConfig], EncodeOptions],
    row_check: RowCheck | None,
) -> dict[str, StreamedRows]:
    """Index the data sets that are to be streamed. Raises DataError."""
    return {
        name: StreamedRows(
            StreamPlan(own, schema, open_sources(own), options(own), cfg.seed, name == "train", row_check)
        )
        for name, own in data.items()
        if own.streaming
    }
