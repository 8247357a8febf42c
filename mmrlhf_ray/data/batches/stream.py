"""Training rows as a stream: read, checked, decoded and encoded by Ray Data while training goes on."""

import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray.data
from ray.exceptions import RayTaskError

from mmrlhf_ray.config.data import DataConfig
from mmrlhf_ray.data.encoding.encode import RawMedia, load_encoder
from mmrlhf_ray.data.encoding.training_rows import EncodeOptions, table_to_bytes, training_row
from mmrlhf_ray.data.errors import BadRow, RowError
from mmrlhf_ray.data.records.quarantine import Rejected, as_json
from mmrlhf_ray.data.records.rows import Source
from mmrlhf_ray.data.records.store import FileStore, LoadedRow
from mmrlhf_ray.runtime.waits import unwrap
from mmrlhf_ray.schema import TRAINING_ROW

_PACKED = pa.schema(
    [
        ("rows", pa.large_binary()),  # an Arrow IPC stream
        ("rejected", pa.list_(pa.string())),  # lines of the quarantine
        ("positions", pa.int64()),
        ("seconds", pa.string()),  # JSON
    ]
)

BLOCK_ROWS = 64
"""Rows that are read and encoded together, and travel as one table."""

_BLOCKS_PER_PIPELINE = 16_384
"""A pipeline lists its blocks before it starts; then another takes over."""
_BLOCKS_AHEAD = 2
"""Finished blocks that wait for the consumer."""


RowCheck = Callable[[Mapping[str, Any]], tuple[str, str] | None]
"""A record → (reason, remedy) where it cannot be used."""


@dataclass(frozen=True)
class StreamPlan:
    """The settings of every reading process."""

    config: DataConfig
    schema: pa.Schema
    """DEMONSTRATION, PREFERENCE or RANKING."""
    sources: tuple[Source, ...]
    options: EncodeOptions
    seed: int
    training: bool = True
    """As in FileStore."""
    row_check: RowCheck | None = None
    """Of the job, for records that are good ones otherwise."""


@dataclass(frozen=True)
class StreamBlock:
    """Rows at consecutive positions of the stream."""

    rows: pa.Table
    """TRAINING_ROW, bad ones left out; `row` is the position."""
    rejected: tuple[Rejected, ...]
    positions: int
    """How many positions there were."""
    seconds: Mapping[str, float]
    """Seconds spent on reading (with formats, checks and augmentation) and on encoding (with decoding)."""


def stream(plan: StreamPlan, positions: Iterable[int]) -> Iterator[StreamBlock]:
    """The rows at `positions`, in that order, `BLOCK_ROWS` at a time.

    Reading stays a few blocks ahead of the consumer; nothing else is held. It ends with the iterator. Raises DataError
    for a file that fails.
    """
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    blocks = _blocks(positions)
    while batch := list(islice(blocks, _BLOCKS_PER_PIPELINE)):
        dataset = ray.data.from_items(batch, override_num_blocks=len(batch)).map_batches(
            StreamReader,
            batch_size=None,
            batch_format="pyarrow",
            fn_constructor_kwargs={"plan": plan},
            concurrency=plan.config.stream_workers,
            num_cpus=0,  # the workers that train have reserved theirs, and wait for this
        )
        try:
            for table in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=_BLOCKS_AHEAD):
                yield from _unpacked(table)
        except RayTaskError as error:
            raise unwrap(error) from error


def stream_batches(
    plan: StreamPlan, batches: Sequence[Sequence[int]], aside: Callable[[Rejected], None]
) -> Iterator[pa.Table]:
    """TRAINING_ROW of the positions of each batch, without the bad rows, which go to `aside`."""
    blocks = stream(plan, chain.from_iterable(batches))
    ready, ahead = TRAINING_ROW.empty_table(), 0
    for positions in batches:
        while ahead < len(positions):
            block = next(blocks)
            for rejected in block.rejected:
                aside(rejected)
            ready, ahead = pa.concat_tables([ready, block.rows]), ahead + block.positions
        ahead -= len(positions)
        own = pc.is_in(ready.column("row"), pa.array(positions, pa.int64()))
        count = pc.sum(own).as_py() or 0
        yield ready.slice(0, count).combine_chunks()
        ready = ready.slice(count)


def _blocks(positions: Iterable[int]) -> Iterator[dict[str, list[int]]]:
    iterator = iter(positions)
    while block := list(islice(iterator, BLOCK_ROWS)):
        yield {"positions": block}


class StreamReader:
    """One reading process: positions in, one packed StreamBlock out."""

    def __init__(self, plan: StreamPlan) -> None:
        self._plan = plan
        self._store = FileStore(plan.config, plan.schema, plan.sources, plan.seed, training=plan.training)
        options = plan.options
        tools = json.loads(options.tools)
        self._encoder = load_encoder(options.model_path, plan.config, allowed=options.allowed, tools=tools)

    def __call__(self, block: pa.Table) -> Iterator[pa.Table]:
        """A table of one row for each block: Ray Data may join and cut tables, but not rows."""
        for positions in block.column("positions").to_pylist():
            yield _packed(self.read(positions))

    def read(self, positions: list[int]) -> StreamBlock:
        """The rows at `positions`."""
        started = time.monotonic()
        loaded = [self._store.load(position) for position in positions]
        read = time.monotonic()
        rows, rejected = [], []
        for position, row in zip(positions, loaded, strict=True):
            encoded = row if isinstance(row, Rejected) else self._encoded(position, row)
            if isinstance(encoded, Rejected):
                rejected.append(encoded)
            else:
                rows.append(encoded)
        table = pa.Table.from_pylist(rows, schema=TRAINING_ROW)
        seconds = {"read": read - started, "encode": time.monotonic() - read}
        return StreamBlock(table, tuple(rejected), len(positions), seconds)

    def _encoded(self, position: int, loaded: LoadedRow) -> dict[str, Any] | Rejected:
        why = self._plan.row_check(loaded.record) if self._plan.row_check else None
        if why is not None:
            return loaded.rejected(RowError(*why))
        clips = {row["media_id"]: RawMedia.of(row) for row in loaded.media}
        row = training_row({**loaded.record, "row": position}, self._encoder, clips, self._plan.options)
        if row["problem"]:
            return loaded.rejected(RowError(row["problem"], "fix it or leave it out"))
        return row


def _packed(block: StreamBlock) -> pa.Table:
    row = {
        "rows": table_to_bytes(block.rows),
        "rejected": [as_json(rejected) for rejected in block.rejected],
        "positions": block.positions,
        "seconds": json.dumps(block.seconds),
    }
    return pa.Table.from_pylist([row], schema=_PACKED)


def _unpacked(table: pa.Table) -> Iterator[StreamBlock]:
    for row in table.to_pylist():
        yield StreamBlock(
            rows=pa.ipc.open_stream(row["rows"]).read_all(),
            rejected=tuple(_rejected(text) for text in row["rejected"]),
            positions=row["positions"],
            seconds=json.loads(row["seconds"]),
        )


def _rejected(text: str) -> Rejected:
    entry = json.loads(text)
    record = entry.pop("record")
    return Rejected(BadRow(**entry), record)
