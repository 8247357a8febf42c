"""Records of prompts, demonstrations, preferences and rankings from files, every row checked; and back to files."""

import logging
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from mmrlhf_ray.config.data import DataConfig
from mmrlhf_ray.data.errors import BadRow, RowError, place_of
from mmrlhf_ray.data.media import MediaRow
from mmrlhf_ray.data.media.decode_pool import DecodeSettings, decode_pool
from mmrlhf_ray.data.records.quarantine import Rejected, forget, settle
from mmrlhf_ray.data.records.rows import ReadRow, SourceReader, files_of, open_sources
from mmrlhf_ray.data.records.sources import DerivedMedia, MediaSource
from mmrlhf_ray.data.records.store import FileStore, HeldStore, LoadedRow, RowStore
from mmrlhf_ray.data.rowfiles import MEDIA_FILE, RECORDS_FILE
from mmrlhf_ray.data.validate import same_prompt
from mmrlhf_ray.errors import DataError
from mmrlhf_ray.schema import MEDIA, TABLES, check

logger = logging.getLogger(__name__)

_MEDIA_ROWS_PER_GROUP = 64  # streaming reads a group for each clip that it looks up
_CLIPS_PER_BATCH = 32  # decoded in one go, so that small ones cost little
_TABLES = ("PROMPT", "DEMONSTRATION", "PREFERENCE", "RANKING")

_Place = tuple[int, int, int]
"""Source, fragment, number in the file: what rows are sorted by."""
_Good = tuple[_Place, ReadRow]
_Bad = tuple[_Place, Rejected]


@dataclass(frozen=True)
class Records:
    """Rows that passed every check, with their media."""

    records: pa.Table
    """PROMPT, DEMONSTRATION, PREFERENCE or RANKING."""
    media: pa.Table
    """MEDIA: what the records show, each media_id once."""
    bad_rows: int
    """Rows set aside."""
    file: str
    """Rows as read."""
    rows: tuple[int, ...]
    """Index in its file of each record, for messages about it."""
    files: tuple[str, ...] = ()
    """File of each record; empty where all are of `file`."""
    sources: tuple[int, ...] = ()
    """Number in `data.sources` of each record; empty where there is one source."""

    def kept(self, wanted: Sequence[bool]) -> "Records":
        """The records for which `wanted` is true."""
        numbers = [number for number, keep in enumerate(wanted) if keep]
        return self.derived(self.records.filter(pa.array(wanted, pa.bool_())), numbers)

    def derived(self, records: pa.Table, origins: Sequence[int]) -> "Records":
        """Other records with the same media. `origins`: of each, the number of the record that it was made from."""
        return replace(
            self,
            records=records,
            rows=tuple(self.rows[number] for number in origins),
            files=tuple(self.files[number] for number in origins if self.files),
            sources=tuple(self.sources[number] for number in origins if self.sources),
        )

    def bad_row(self, number: int, record_id: str, reason: str, remedy: str) -> BadRow:
        """One of the records as a bad one."""
        return BadRow(self.files[number] if self.files else self.file, self.rows[number], record_id, reason, remedy)

    def loaded(self) -> list[LoadedRow]:
        """Each record with what it shows."""
        media: dict[str, MediaRow] = {row["media_id"]: row for row in self.media.to_pylist()}
        files = self.files or (self.file,) * len(self.rows)
        return [
            LoadedRow(ReadRow(file, index, record, record, []), tuple(media[i] for i in record["media_ids"]))
            for file, index, record in zip(files, self.rows, self.records.to_pylist(), strict=True)
        ]


def read_records(config: DataConfig, schema: pa.Schema, quarantine_to: Path) -> Records:
    """Read and check every row of what `config` names.

    `schema` is PROMPT, DEMONSTRATION, PREFERENCE or RANKING. All media are decoded once. Raises DataError for a file
    that cannot be read, for bad rows if `config.on_bad_row` is "fail", and if no row is left; see docs/data.md.
    """
    sources = open_sources(config)
    readers = [SourceReader(source, config, schema) for source in sources]
    media = [reader.media() for reader in readers]
    rows: list[_Good] = []
    bad: list[_Bad] = []
    for number, reader in enumerate(readers):
        for place, read in _parse(number, reader, media[number]):
            if isinstance(read, ReadRow):
                rows.append((place, read))
            else:
                bad.append((place, read))
    for reader in readers:
        reader.close()
    problems = [_media_problems(source, _rows_of(rows, n), config) for n, source in enumerate(media)]
    checked: list[_Good] = []
    for place, row in rows:
        error = _first_problem(row, problems[place[0]])
        if error is None:
            checked.append((place, row))
        else:
            bad.append((place, row.rejected(error)))
    rows = _without_conflicts(checked, schema, bad)
    rejected = [r for _, r in sorted(bad, key=lambda pair: pair[0])]
    files = files_of(sources)
    file = files[0] if len(files) == 1 else ", ".join(source.config.path for source in sources)
    if config.on_bad_row == "quarantine":
        for name in files:
            forget(quarantine_to, name)
    settle(rejected, len(rows), file, config.on_bad_row, quarantine_to)
    redacted = sum((reader.redacted for reader in readers), Counter[str]())
    if redacted:
        logger.info("%s: redacted %s", file, ", ".join(f"{n} × {label}" for label, n in sorted(redacted.items())))
    records = pa.Table.from_pylist([row.record for _, row in rows], schema=schema)
    return Records(
        records=check(records, schema, "read_records"),
        media=check(_used(media, rows), MEDIA, "read_records"),
        bad_rows=len(rejected),
        file=file,
        rows=tuple(row.index for _, row in rows),
        files=tuple(row.file for _, row in rows) if len(files) > 1 else (),
        sources=tuple(place[0] for place, _ in rows) if len(sources) > 1 else (),
    )


def first_records(config: DataConfig, schema: pa.Schema, seed: int, count: int = 256) -> Records:
    """The first `count` records of a stream that can be read, without their media: to see what a data set has.

    Raises DataError for a file that cannot be read.
    """
    store = FileStore(config, schema, open_sources(config), seed)
    loaded = [store.load(position) for position in range(min(count, store.rows))]
    rows = [row for row in loaded if isinstance(row, LoadedRow)]
    records = pa.Table.from_pylist([row.record for row in rows], schema=schema)
    places = tuple(row.read.index for row in rows)
    files = tuple(row.read.file for row in rows)
    return Records(records, MEDIA.empty_table(), len(loaded) - len(rows), config.mixture[0].path, places, files)


def open_store(config: DataConfig, schema: pa.Schema, records: Records, seed: int) -> RowStore:
    """The rows of `config` by position: `records` in memory, or with `config.streaming`, which does not look at them,
    the rows of the files. Raises DataError for a file that cannot be read."""
    if config.streaming:
        return FileStore(config, schema, open_sources(config), seed)
    rows = records.loaded()
    weights = [source.weight for source in config.mixture]
    return HeldStore(rows, records.sources or (0,) * len(rows), weights, seed, records.file)


def write_records(path: Path, records: pa.Table, media: pa.Table) -> None:
    """Write a directory with records.parquet and media.parquet that appears complete or not at all.

    An earlier directory of records is replaced; DataError if `path` holds anything else, or if `media` lacks
    something that `records` show or has it twice.
    """
    table = (records.schema.metadata or {}).get(b"mmrlhf.table", b"").decode()
    if table not in _TABLES:
        raise DataError(f"write_records expects one of {', '.join(_TABLES)}, got {table or 'no metadata'!r}")
    check(records, TABLES[table], "write_records")
    check(media, MEDIA, "write_records")
    ids = media.column("media_id").to_pylist()
    if len(set(ids)) != len(ids):
        raise DataError("write_records: media has a media_id twice; keep each once")
    lacking = {i for row in records.column("media_ids").to_pylist() for i in row} - set(ids)
    if lacking:
        raise DataError(f"write_records: media lacks {len(lacking)} media_ids, first {min(lacking)}")
    _refuse_foreign(path)
    fresh = path.with_name(f".{path.name}.new-{os.getpid()}")
    fresh.mkdir(parents=True)
    try:
        pq.write_table(records, fresh / RECORDS_FILE)
        # Encoded media neither compress nor repeat; statistics would copy whole clips into the footer.
        pq.write_table(
            media,
            fresh / MEDIA_FILE,
            compression="none",
            use_dictionary=False,
            write_statistics=False,
            row_group_size=_MEDIA_ROWS_PER_GROUP,
        )
        _swap(fresh, path)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _refuse_foreign(path: Path) -> None:
    if not path.exists():
        return
    foreign = {p.name for p in path.iterdir()} - {RECORDS_FILE, MEDIA_FILE} if path.is_dir() else {path.name}
    if foreign:
        raise DataError(f"{path} holds {min(foreign)!r}, which is not a part of records; choose another directory")


def _swap(fresh: Path, path: Path) -> None:
    if not path.exists():
        fresh.rename(path)
        return
    old = path.with_name(f".{path.name}.old-{os.getpid()}")
    path.rename(old)
    fresh.rename(path)
    shutil.rmtree(old)


def _parse(number: int, reader: SourceReader, media: DerivedMedia) -> Iterator[tuple[_Place, ReadRow | Rejected]]:
    for at, fragment in enumerate(reader.source.fragments):
        for index, row in reader.raw(fragment):
            yield (number, at, index), reader.parse(fragment.file, index, row, media)


def _rows_of(rows: Sequence[_Good], source: int) -> list[ReadRow]:
    return [row for place, row in rows if place[0] == source]


def _used(media: Sequence[MediaSource], rows: Sequence[_Good]) -> pa.Table:
    """The media of the rows, each media_id once, from the first source that has it."""
    seen: set[str] = set()
    tables = [MEDIA.empty_table()]
    for number, source in enumerate(media):
        used = {shown.media_id for row in _rows_of(rows, number) for shown in row.shown} - seen
        seen |= used
        tables.append(source.table(used))
    return pa.concat_tables(tables).combine_chunks()


def _media_problems(source: MediaSource, rows: Sequence[ReadRow], config: DataConfig) -> dict[str, str]:
    """media_id → why it cannot be decoded, for those that cannot."""
    pool = decode_pool(DecodeSettings.of(config))

    def problems(media_ids: Sequence[str]) -> list[str | None]:
        found: dict[str, str] = {}
        media: dict[str, tuple[str, bytes]] = {}
        for media_id in media_ids:
            try:
                row = source.get(media_id)
            except ValueError as error:
                found[media_id] = str(error)
            else:
                media[media_id] = (row["kind"], row["data"])
        undecoded = zip(media, pool.problems(list(media.values())), strict=True)
        found |= {media_id: problem for media_id, problem in undecoded if problem is not None}
        return [found.get(media_id) for media_id in media_ids]

    ids = list(dict.fromkeys(media.media_id for row in rows for media in row.shown))
    batches = [ids[first : first + _CLIPS_PER_BATCH] for first in range(0, len(ids), _CLIPS_PER_BATCH)]
    with ThreadPoolExecutor(config.decode.workers) as threads:
        answers = [problem for batch in threads.map(problems, batches) for problem in batch]
    return {media_id: problem for media_id, problem in zip(ids, answers, strict=True) if problem}


def _first_problem(row: ReadRow, problems: Mapping[str, str]) -> RowError | None:
    for media in row.shown:
        if media.media_id in problems:
            return RowError(f"{media.kind} {media.name}: {problems[media.media_id]}", "replace the file")
    return None


def _without_conflicts(rows: Sequence[_Good], schema: pa.Schema, bad: list[_Bad]) -> list[_Good]:
    """The first row of each prompt_id says what the prompt is; others must agree with it."""
    first: dict[str, ReadRow] = {}
    good: list[_Good] = []
    for place, row in rows:
        known = first.setdefault(row.record["prompt_id"], row)
        if same_prompt(known.record, row.record, schema):
            good.append((place, row))
            continue
        where = place_of(known.file, known.index) + ("" if known.file == row.file else f" of {known.file}")
        error = RowError(f"its prompt_id names another prompt in {where}", "give every prompt its own prompt_id")
        bad.append((place, row.rejected(error)))
    return good
