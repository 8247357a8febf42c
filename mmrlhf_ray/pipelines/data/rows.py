"""The rows of a data set one after another, with every check: what `mmrlhf data` works on."""

import hashlib
import json
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice

from mmrlhf_ray.config.data import DataConfig
from mmrlhf_ray.data.errors import RowError
from mmrlhf_ray.data.formats import KINDS, Format, Kind, as_raw_row
from mmrlhf_ray.data.media.decode_pool import DecodePool, DecodeSettings, decode_pool
from mmrlhf_ray.data.records.quarantine import Rejected
from mmrlhf_ray.data.records.rows import Source, object_of, open_sources
from mmrlhf_ray.data.records.store import FileStore, LoadedRow
from mmrlhf_ray.data.rowfiles import Row, open_rows
from mmrlhf_ray.data.validate import build_record, conversation, identity_keys
from mmrlhf_ray.errors import DataError
from mmrlhf_ray.schema import TABLES

_LOOKED_AT = 64
_BATCH_ROWS = 64
_BATCH_BYTES = 32 << 20
_RICHEST_FIRST: tuple[Kind, ...] = ("RANKING", "PREFERENCE", "DEMONSTRATION", "PROMPT")


@dataclass(frozen=True)
class OpenData:
    """A data set that was found and looked over."""

    config: DataConfig
    source: Source
    kind: Kind
    """The kind of record that its rows are read as."""
    possible: tuple[Kind, ...]
    """The kinds that they could be read as, judging by the first of them."""
    store: FileStore


@dataclass
class Stages:
    """Seconds that each stage took, by name."""

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += time.perf_counter() - began


def open_data(config: DataConfig, kind: Kind | None = None, among: frozenset[Kind] = frozenset(KINDS)) -> OpenData:
    """Open the one data set of `config`. Without `kind`, its rows are the richest records of `among` that half of the
    first ones can be read as. Raises DataError as open_sources(), and where the format holds no such records."""
    (source,) = open_sources(config)
    possible = _possible_kinds(source)
    if kind is not None and kind not in source.form.reads:
        known = ", ".join(k.lower() for k in KINDS if k in source.form.reads)
        raise DataError(f"{source.form.name} rows hold no {kind.lower()}s; expected one of {known}")
    chosen = kind or next((k for k in possible if k in among), None)
    if chosen is None:
        found = ", ".join(k.lower() for k in possible) or "none"
        wanted = ", ".join(k.lower() for k in KINDS if k in among)
        raise DataError(f"{config.path}: the first rows can be read as {found}, expected one of {wanted}")
    store = FileStore(config, TABLES[chosen], (source,), seed=0, training=False)
    return OpenData(config, source, chosen, possible, store)


def checked_rows(data: OpenData, stages: Stages) -> Iterator[LoadedRow | Rejected]:
    """Every row in order; its media can be decoded, and its prompt_id names no other prompt."""
    pool = decode_pool(DecodeSettings.of(data.config))
    known: dict[int, str | None] = {}
    prompts: dict[int, int] = {}
    for batch in _batches(data.store, stages):
        with stages.timed("decoding"):
            problems = _media_problems(batch, pool, known)
        for row in batch:
            yield row if isinstance(row, Rejected) else _judged(row, problems, prompts, data.kind)


def short_hash(*texts: str) -> int:
    """64 bits that stand for the texts where a table of all of them would not fit into memory."""
    digest = hashlib.blake2b(json.dumps(texts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def _possible_kinds(source: Source) -> tuple[Kind, ...]:
    rows = [row for _, row in islice(open_rows(source.config).read(source.fragments[0]), _LOOKED_AT)]
    return tuple(
        kind
        for kind in _RICHEST_FIRST
        if kind in source.form.reads
        and (kind == "PROMPT" or 2 * sum(_fits(row, source.form, kind) for row in rows) >= len(rows))
    )


def _fits(row: Row, form: Format, kind: Kind) -> bool:
    try:
        raw = as_raw_row(object_of(row), form, kind)
        raw.pop("modality", None)  # nothing is looked up here that could be of a modality
        build_record(raw, TABLES[kind], conversation(raw)[0], [])
    except RowError:
        return False
    return True


def _batches(store: FileStore, stages: Stages) -> Iterator[list[LoadedRow | Rejected]]:
    batch: list[LoadedRow | Rejected] = []
    size = 0
    for position in range(store.rows):
        with stages.timed("reading"):
            row = store.load(position)
        batch.append(row)
        size += sum(len(media["data"]) for media in row.media) if isinstance(row, LoadedRow) else 0
        if len(batch) == _BATCH_ROWS or size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _media_problems(
    batch: Sequence[LoadedRow | Rejected], pool: DecodePool, known: dict[int, str | None]
) -> dict[int, str | None]:
    """short_hash of kind and media_id → why it cannot be decoded; each is decoded once."""
    fresh = {
        short_hash(media["kind"], media["media_id"]): media
        for row in batch
        if isinstance(row, LoadedRow)
        for media in row.media
    }
    fresh = {key: media for key, media in fresh.items() if key not in known}
    found = pool.problems([(media["kind"], media["data"]) for media in fresh.values()])
    known |= dict(zip(fresh, found, strict=True))
    return known


def _judged(
    row: LoadedRow, problems: dict[int, str | None], prompts: dict[int, int], kind: Kind
) -> LoadedRow | Rejected:
    for shown, media in zip(row.read.shown, row.media, strict=True):
        problem = problems[short_hash(media["kind"], media["media_id"])]
        if problem is not None:
            return row.rejected(RowError(f"{shown.kind} {shown.name}: {problem}", "replace the file"))
    identity = short_hash(*(json.dumps(row.record[key]) for key in identity_keys(TABLES[kind])))
    if prompts.setdefault(short_hash(row.record["prompt_id"]), identity) != identity:
        return row.rejected(RowError("its prompt_id names another prompt", "give every prompt its own prompt_id"))
    return row
