"""The rows of a data set one after another, with every check: what `mmrlhf data` works on."""

import hashlib
import json
import time
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from mmrlhf_ray.config.data import DataConfig
from mmrlhf_ray.data.errors import RowError
from mmrlhf_ray.data.formats import KINDS, Format, Kind, as_raw_row
from mmrlhf_ray.data.formats.fits import shape_of
from mmrlhf_ray.data.media.decode_pool import DecodePool, DecodeSettings, decode_pool
from mmrlhf_ray.data.records.columns import object_of
from mmrlhf_ray.data.records.quarantine import Rejected
from mmrlhf_ray.data.records.rows import Source, open_sources
from mmrlhf_ray.data.records.store import FileStore, LoadedRow
from mmrlhf_ray.data.rowfiles import open_rows
from mmrlhf_ray.data.validate import build_record, conversation, identity_keys
from mmrlhf_ray.errors import DataError
from mmrlhf_ray.schema import TABLES

_LOOKED_AT = 64
"""Rows of one shape that are looked at to see what they can be read as."""
_BATCH_ROWS = 64
_BATCH_BYTES = 32 << 20
_ANSWERS: dict[Kind, tuple[str, ...]] = {
    "RANKING": ("responses",),
    "PREFERENCE": ("chosen", "rejected"),
    "DEMONSTRATION": ("response",),
}
"""Keys of raw rows with answers, the richest first."""


@dataclass(frozen=True)
class OpenData:
    """A data set that was found and looked over."""

    config: DataConfig
    source: Source
    kind: Kind
    """The kind of record that its rows are read as."""
    possible: tuple[Kind, ...]
    """The kinds that half of them could be read as."""
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
    """Open the one data set of `config`.

    Without `kind`, its rows are the richest records of `among` that half of them can be read as; or, rather than
    prompts, those that half of them have answers for, so that it comes out what is wrong with these. Raises
    DataError as open_sources(), and where the format holds no such records.
    """
    (source,) = open_sources(config)
    possible, wanted_kinds = _kinds(source)
    if kind is not None and kind not in source.form.reads:
        known = ", ".join(k.lower() for k in KINDS if k in source.form.reads)
        raise DataError(f"{source.form.name} rows hold no {kind.lower()}s; expected one of {known}")
    chosen = kind or next((k for k in wanted_kinds if k in among), None)
    if chosen is None:
        found = ", ".join(k.lower() for k in possible) or "none"
        wanted = ", ".join(k.lower() for k in KINDS if k in among)
        raise DataError(f"{config.path}: its rows can be read as {found}, expected one of {wanted}")
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


def _kinds(source: Source) -> tuple[tuple[Kind, ...], tuple[Kind, ...]]:
    """(the kinds that the rows can be read as; these and those that they have faulty answers for, by preference)."""
    form = source.form
    found = [
        (weight, row, raw)
        for weight, row in _examples(source)
        if (raw := _raw_or_none(row, form, "PROMPT")) is not None
    ]
    kinds = [kind for kind in _ANSWERS if kind in form.reads and found]

    def half(fit: Iterable[bool]) -> bool:
        return 2 * sum(w for (w, _, _), fits in zip(found, fit, strict=True) if fits) >= sum(w for w, _, _ in found)

    readable = tuple(k for k in kinds if half(_raw_or_none(row, form, k) is not None for _, row, _ in found))
    answered = tuple(k for k in kinds if k not in readable and half(_answers(raw, form, k) for _, _, raw in found))
    return (*readable, "PROMPT"), (*readable, *answered, "PROMPT")


def _examples(source: Source) -> Iterator[tuple[float, Mapping[str, Any]]]:
    """(how many rows it stands for, a row) of the first rows of each shape that the data set has."""
    counts: Counter[Hashable] = Counter()
    first: dict[Hashable, list[Mapping[str, Any]]] = defaultdict(list)
    rows = open_rows(source.config)
    for fragment in source.fragments:
        for _, stored in rows.read(fragment):
            try:
                row = object_of(stored, source.config.columns)
            except RowError:
                continue
            shape = shape_of(row)
            counts[shape] += 1
            if len(first[shape]) < _LOOKED_AT:
                first[shape].append(row)
    for shape, examples in first.items():
        yield from ((counts[shape] / len(examples), row) for row in examples)


def _raw_or_none(row: Mapping[str, Any], form: Format, kind: Kind) -> dict[str, Any] | None:
    """The raw row of one that can be read as a record of `kind`, its media aside."""
    try:
        raw = as_raw_row(row, form, kind)
        shown = {key: value for key, value in raw.items() if key != "modality"}  # nothing is looked up here
        build_record(shown, TABLES[kind], conversation(raw)[0], [])
    except RowError:
        return None
    return raw


def _answers(raw: Mapping[str, Any], form: Format, kind: Kind) -> bool:
    """Whether a row that was read as a prompt has answers of a kind, be they faulty."""
    always = "DEMONSTRATION" not in form.reads  # such formats have nothing but compared answers
    return always or any(raw.get(key) is not None for key in _ANSWERS[kind])


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
