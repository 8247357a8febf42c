"""Training on a stream: each worker reads its own share of every batch, from the exact position on."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import pyarrow as pa

from mmrlhf_ray.config.base import TrainJobConfig
from mmrlhf_ray.config.data import DataConfig
from mmrlhf_ray.data.batches.stream import RowCheck, StreamPlan, stream, stream_batches
from mmrlhf_ray.data.encoding.training_rows import EncodeOptions
from mmrlhf_ray.data.records.places import with_absolute_paths
from mmrlhf_ray.data.records.quarantine import Rejected, set_row_aside, settle
from mmrlhf_ray.data.records.rows import files_of, open_sources
from mmrlhf_ray.data.records.store import order_of

Streams = Mapping[str, StreamPlan]
"""Of "train" and "eval", those that are streamed."""


def open_streams(
    cfg: TrainJobConfig,
    data: Mapping[str, DataConfig],
    schema: pa.Schema,
    options: Callable[[DataConfig], EncodeOptions],
    row_check: RowCheck | None,
) -> Streams:
    """Index the data sets that are to be streamed. Raises DataError."""
    return {
        name: StreamPlan(own, schema, open_sources(own), options(own), cfg.seed, name == "train", row_check)
        for name, own in ((name, with_absolute_paths(own)) for name, own in data.items())
        if own.streaming
    }


def rows_of(plan: StreamPlan) -> int:
    """Rows of an epoch, bad ones counted."""
    return order_of(plan.sources, plan.seed).rows


def check_first_rows(plan: StreamPlan, run_dir: Path) -> None:
    """Read the rows that are to be checked before the start. Raises DataError as settle()."""
    count = min(plan.config.check_rows or rows_of(plan), rows_of(plan))
    rejected: list[Rejected] = []
    for block in stream(plan, range(count)):
        rejected += block.rejected
    files = files_of(plan.sources)
    what = files[0] if len(files) == 1 else f"{len(files)} files of data"
    settle(rejected, count - len(rejected), what, plan.config.on_bad_row, run_dir)


def train_batches(
    plan: StreamPlan, cfg: TrainJobConfig, run_dir: Path, rank: int, world_size: int, steps: range
) -> Iterator[pa.Table]:
    """A rank's share of the batch of each step: TRAINING_ROW, fewer where rows are bad. Raises DataError for those if
    `on_bad_row` is "fail"."""
    size = cfg.batch_size // world_size
    firsts = (step * cfg.batch_size + rank * size for step in steps)
    return _batches(plan, [range(first, first + size) for first in firsts], run_dir)


def eval_batches(
    plan: StreamPlan, cfg: TrainJobConfig, run_dir: Path, rank: int, world_size: int
) -> Iterator[pa.Table]:
    """A rank's share of all rows; every rank gets as many tables."""
    rows, size = rows_of(plan), cfg.batch_size
    shares = [range(first + rank, min(first + size, rows), world_size) for first in range(0, rows, size)]
    return _batches(plan, shares, run_dir)


def _batches(plan: StreamPlan, shares: list[range], run_dir: Path) -> Iterator[pa.Table]:
    aside = partial(set_row_aside, on_bad_row=plan.config.on_bad_row, quarantine_to=run_dir)
    return stream_batches(plan, shares, aside)
