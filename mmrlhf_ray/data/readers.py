"""Records of prompts, demonstrations, preferences and rankings from files, every row checked; and back to files."""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mmrlhf_ray.config.base import DataConfig
from mmrlhf_ray.data.errors import BadRow, DataError, RowError
from mmrlhf_ray.data.media import DEFAULT_LIMITS, MediaLimits, decode
from mmrlhf_ray.data.quarantine import Rejected, forget, settle
from mmrlhf_ray.data.sources import FileMedia, MediaSource, TableMedia
from mmrlhf_ray.data.validate import Shown, build_record, conversation, parse_json, same_prompt
from mmrlhf_ray.schema import MEDIA, TABLES, check

RECORDS_FILE = "records.parquet"
MEDIA_FILE = "media.parquet"

_MEDIA_ROWS_PER_GROUP = 1024
_TABLES = ("PROMPT", "DEMONSTRATION", "PREFERENCE", "RANKING")


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
    """What was read."""
    rows: tuple[int, ...]
    """Index in `file` of each record, for messages about it."""

    def kept(self, wanted: Sequence[bool]) -> "Records":
        """The records for which `wanted` is true."""
        places = tuple(place for place, keep in zip(self.rows, wanted, strict=True) if keep)
        return replace(self, records=self.records.filter(pa.array(wanted, pa.bool_())), rows=places)


@dataclass(frozen=True)
class _Row:
    index: int
    raw: Mapping[str, Any]
    record: dict[str, Any]
    shown: list[Shown]


def read_records(
    config: DataConfig, schema: pa.Schema, quarantine_to: Path, limits: MediaLimits = DEFAULT_LIMITS
) -> Records:
    """Read and check `config.path`: a .jsonl file, a .parquet file of records, or a directory with records.parquet.

    `schema` is PROMPT, DEMONSTRATION, PREFERENCE or RANKING. All media are decoded once. Raises DataError for a file
    that cannot be read, for bad rows if `config.on_bad_row` is "fail", and if no row is left; see docs/data.md.
    """
    path = _records_file(Path(config.path))
    source: MediaSource
    if path.suffix == ".jsonl":
        source, raws = FileMedia(path.parent, limits), _json_lines(path)
    else:
        source, raws = _media_beside(path), iter(enumerate(_read_parquet(path).to_pylist()))
    file = str(path)
    rows, rejected = _parse(raws, schema, source, config.facts_column, file)
    problems = _media_problems(source, rows, limits)
    rows = [row for row in rows if not _reject(row, _first_problem(row, problems), file, rejected)]
    rows = _without_conflicts(rows, schema, file, rejected)
    rejected.sort(key=lambda r: r.bad.row)
    if config.on_bad_row == "quarantine":
        forget(quarantine_to, file)
    settle(rejected, len(rows), file, config.on_bad_row, quarantine_to)
    records = pa.Table.from_pylist([row.record for row in rows], schema=schema)
    used = {media.media_id for row in rows for media in row.shown}
    return Records(
        records=check(records, schema, "read_records"),
        media=check(source.table(used), MEDIA, "read_records"),
        bad_rows=len(rejected),
        file=file,
        rows=tuple(row.index for row in rows),
    )


def write_records(path: Path, records: pa.Table, media: pa.Table) -> None:
    """Write a directory with records.parquet and media.parquet that appears whole or not at all.

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
        raise DataError(f"{path} holds {min(foreign)!r}, which is no part of records; choose another directory")


def _swap(fresh: Path, path: Path) -> None:
    if not path.exists():
        fresh.rename(path)
        return
    old = path.with_name(f".{path.name}.old-{os.getpid()}")
    path.rename(old)
    fresh.rename(path)
    shutil.rmtree(old)


def _records_file(path: Path) -> Path:
    file = path / RECORDS_FILE if path.is_dir() else path
    if not file.exists():
        raise DataError(f"data file {file} does not exist; correct the path of data or eval_data, or create it")
    if file.suffix not in (".jsonl", ".parquet"):
        raise DataError(f"data file {file} ends in {file.suffix!r}; give a .jsonl or .parquet file, or a directory")
    return file


def _read_parquet(path: Path) -> pa.Table:
    try:
        return pq.ParquetFile(path).read()
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{path} is not a readable Parquet file: {error}; write it anew") from error


def _media_beside(path: Path) -> TableMedia:
    file = path.with_name(MEDIA_FILE)
    return TableMedia(_read_parquet(file) if file.exists() else MEDIA.empty_table(), str(file))


def _json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """(index, bytes) of each line that is not blank."""
    try:
        with path.open("rb") as file:
            for index, line in enumerate(file):
                content = line.removeprefix(b"\xef\xbb\xbf") if index == 0 else line
                if content.strip():
                    yield index, content
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; make it readable") from error


def _parse(
    raws: Iterator[tuple[int, Any]], schema: pa.Schema, source: MediaSource, facts_column: str | None, file: str
) -> tuple[list[_Row], list[Rejected]]:
    rows: list[_Row] = []
    rejected: list[Rejected] = []
    for index, line in raws:
        original: Mapping[str, Any] = line if isinstance(line, dict) else {"line": line.decode("utf-8", "replace")}
        try:
            raw = original = _object(line)
            messages, parts = conversation(raw)
            shown = source.attach(raw, parts)
            record = build_record(raw, schema, messages, shown, facts_column)
        except RowError as error:
            rejected.append(_rejected(file, index, original, error))
        else:
            rows.append(_Row(index, raw, record, shown))
    return rows, rejected


def _object(line: Any) -> dict[str, Any]:
    raw = line if isinstance(line, dict) else parse_json(line, "the line")
    if not isinstance(raw, dict):
        raise RowError(f"the line is a JSON {type(raw).__name__}, expected an object", 'write {"prompt": …}')
    return {key: value for key, value in raw.items() if value is not None}  # null is absent, as in Parquet


def _rejected(file: str, index: int, original: Mapping[str, Any], error: RowError) -> Rejected:
    return Rejected(BadRow(file, index, str(original.get("prompt_id", "")), error.reason, error.remedy), original)


def _media_problems(source: MediaSource, rows: list[_Row], limits: MediaLimits) -> dict[str, str]:
    """media_id → why it cannot be decoded, for those that cannot. Decoders release the interpreter lock."""

    def problem(media_id: str) -> str | None:
        try:
            media = source.get(media_id)
            decode(media["kind"], media["data"], None, limits)
        except ValueError as error:
            return str(error)
        return None

    ids = list(dict.fromkeys(media.media_id for row in rows for media in row.shown))
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return {media_id: found for media_id, found in zip(ids, pool.map(problem, ids), strict=True) if found}


def _first_problem(row: _Row, problems: Mapping[str, str]) -> RowError | None:
    for media in row.shown:
        if media.media_id in problems:
            return RowError(f"{media.kind} {media.name}: {problems[media.media_id]}", "replace the file")
    return None


def _reject(row: _Row, error: RowError | None, file: str, rejected: list[Rejected]) -> bool:
    if error is not None:
        rejected.append(_rejected(file, row.index, row.raw, error))
    return error is not None


def _without_conflicts(rows: list[_Row], schema: pa.Schema, file: str, rejected: list[Rejected]) -> list[_Row]:
    """The first row of each prompt_id says what the prompt is; others must agree with it."""
    first: dict[str, _Row] = {}
    good: list[_Row] = []
    for row in rows:
        known = first.setdefault(row.record["prompt_id"], row)
        if same_prompt(known.record, row.record, schema):
            good.append(row)
            continue
        where = f"line {known.index + 1}" if file.endswith(".jsonl") else f"row {known.index}"
        error = RowError(f"its prompt_id names another prompt in {where}", "give every prompt its own prompt_id")
        rejected.append(_rejected(file, row.index, row.raw, error))
    return good
