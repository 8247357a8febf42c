"""Rows of "train" and "eval" as the workers see them: held in Ray's object store, or read when their turn comes."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import ray.train

from mmrlhf_ray.config.base import TrainJobConfig
from mmrlhf_ray.config.data import DataConfig
from mmrlhf_ray.data.batches.stream import RowCheck, StreamPlan, stream, stream_batches
from mmrlhf_ray.data.encoding.training_rows import EncodeOptions
from mmrlhf_ray.data.records.quarantine import Rejected, set_row_aside, settle
from mmrlhf_ray.data.records.rows import name_of, open_sources
from mmrlhf_ray.data.records.store import order_of


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
        """A rank's share of the batch of each step, endless or until the last one. A step has the same rows whichever
        `steps` begin with. Raises DataError."""
        ...

    def eval_batches(self, share: Share) -> Iterator[pa.Table]:
        """A rank's share of all rows; every rank gets as many tables. Raises DataError."""
        ...


@dataclass(frozen=True)
class HeldRows:
    """Rows that Ray Train gives to each worker as a data set."""

    name: str
    """Of the data set: "train" or "eval"."""
    count: int

    def steps(self, epochs: int, batch_size: int) -> int:
        """An epoch leaves out the rows that do not fill a batch."""
        return epochs * (self.count // batch_size)

    def train_batches(self, share: Share, steps: range) -> Iterator[pa.Table]:
        """Epoch after epoch, each with a shuffle of its own."""
        shard = ray.train.get_dataset_shard(self.name)
        size = share.cfg.batch_size // share.world_size

        def epoch(number: int) -> Iterator[pa.Table]:
            return iter(
                shard.iter_batches(
                    batch_size=size,
                    batch_format="pyarrow",
                    local_shuffle_buffer_size=64 * size,
                    local_shuffle_seed=share.cfg.seed + number,
                    drop_last=True,
                )
            )

        batches = chain.from_iterable(epoch(number) for number in count())
        for _ in range(steps.start):
            next(batches)
        return batches

    def eval_batches(self, share: Share) -> Iterator[pa.Table]:
        """Every worker reads all rows and takes its own."""
        everything = ray.train.get_dataset_shard(self.name)
        for table in everything.iter_batches(batch_size=share.cfg.batch_size, batch_format="pyarrow"):
            yield table.take(pa.array(range(share.rank, len(table), share.world_size), pa.int64()))


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
        checked = min(config.check_rows or self.count, self.count)
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
