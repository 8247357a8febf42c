"""A data set in another format: rows as JSON lines or Parquet with media next to it or inside, or as our tables."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from mmrlhf_ray.config.data import DataConfig
from mmrlhf_ray.data.errors import BadRow, RowError, bad_rows_error
from mmrlhf_ray.data.formats import Format, Kind, as_written_row, format_named
from mmrlhf_ray.data.records.quarantine import Rejected
from mmrlhf_ray.data.records.store import LoadedRow
from mmrlhf_ray.errors import DataError
from mmrlhf_ray.pipelines.data.rows import OpenData, Stages, checked_rows, open_data
from mmrlhf_ray.pipelines.data.writers import (
    MEDIA_DIR,
    JsonLines,
    MediaFolder,
    ParquetRows,
    RecordTables,
    RowWriter,
    as_columns,
)
from mmrlhf_ray.runtime.progress import Progress

BAD_SUFFIX = ".bad.jsonl"
_SHOW_EVERY = 64
_BAD_KEPT = 5
_OWN = "mmrlhf"


@dataclass(frozen=True)
class Converted:
    """The files written."""

    rows: int
    media: int
    bad: int
    first_bad: tuple[BadRow, ...]
    path: Path
    bad_path: Path | None
    """Where the bad rows are listed; None where there is none."""

    def __str__(self) -> str:
        lines = [f"{self.path}: {self.rows:,} rows, {self.media:,} media"]
        if self.bad_path is not None:
            lines.append(f"{self.bad:,} bad rows were left out; {self.bad_path} lists them, the first:")
            lines.append(f"  {self.first_bad[0]}")
        return "\n".join(lines)


def run(config: DataConfig, destination: Path, format_name: str, kind: Kind | None, strict: bool) -> Converted:
    """Write the data set of `config` to `destination`: a .jsonl or .parquet file, or a directory of our own tables.

    Bad rows, and rows that the format cannot express, are left out and listed in `<destination>.bad.jsonl`. Nothing
    appears before all of it is written. Raises DataError where `destination` exists or does not suit the format,
    where `strict` and a row is bad, and where no row is left.
    """
    form = format_named(format_name)
    check_destination(destination, form)
    if not form.writes:
        raise DataError(f"{form.name} rows are read only; name another format with --to")
    if kind is not None and kind not in form.writes:
        known = ", ".join(k.lower() for k in sorted(form.writes))
        raise DataError(f"{form.name} cannot express {kind.lower()}s; it can {known}")
    data = open_data(config, kind, form.writes)
    with _staging(destination) as stage:
        media = MediaFolder(stage / MEDIA_DIR, form, destination.suffix)
        rows, first_bad = _write(data, form, stage / destination.name, media)
        bad = data.store.rows - rows
        if bad and (strict or not rows):
            raise bad_rows_error(first_bad, f"{config.path}: {bad} of {data.store.rows} rows cannot be converted")
        _publish(stage, destination)
    return Converted(rows, media.count, bad, tuple(first_bad), destination, _bad_path(destination) if bad else None)


def check_destination(destination: Path, form: Format) -> None:
    """Raise DataError for a place or kind of file that rows of the format cannot be written to."""
    if destination.exists():
        raise DataError(f"{destination} exists; remove it, or choose another name")
    suffixes = [".jsonl", *([".parquet"] if form.parquet else []), *([""] if form.name == _OWN else [])]
    if destination.suffix not in suffixes:
        known = " or ".join(suffix or "a directory" for suffix in suffixes)
        raise DataError(f"{destination} ends in {destination.suffix!r}; {form.name} rows go to {known}")


def _bad_path(path: Path) -> Path:
    return path.with_name(path.name + BAD_SUFFIX)


def _write(data: OpenData, form: Format, path: Path, media: MediaFolder) -> tuple[int, list[BadRow]]:
    """(rows written, the first bad ones). All bad rows go to a file next to `path`, if there are any."""
    first_bad: list[BadRow] = []
    done, shown, bad = 0, 0, 0
    with Progress("convert", data.store.rows, "row") as progress, _writer(path, data.kind) as writer:
        for row in checked_rows(data, Stages()):
            failed = row.bad if isinstance(row, Rejected) else _write_one(row, data.kind, form, writer, media)
            if failed is not None:
                bad += 1
                first_bad += [failed] if len(first_bad) < _BAD_KEPT else []
                with _bad_path(path).open("a", encoding="utf-8") as file:
                    file.write(json.dumps(asdict(failed)) + "\n")
            done += 1
            if done % _SHOW_EVERY == 0 or done == data.store.rows:
                progress.update(done, done - shown, bad=bad)
                shown = done
    return done - bad, first_bad


def _writer(path: Path, kind: Kind) -> RowWriter:
    if not path.suffix:
        return RecordTables(path, kind)
    return JsonLines(path) if path.suffix == ".jsonl" else ParquetRows(path)


def _write_one(row: LoadedRow, kind: Kind, form: Format, writer: RowWriter, media: MediaFolder) -> BadRow | None:
    if isinstance(writer, RecordTables):
        media.count += writer.write_record(row.record, row.media)
        return None
    names = {item["media_id"]: media.name(item) for item in row.media}
    try:
        written = as_written_row(row.record, form, kind, names)
    except RowError as error:
        return row.rejected(error).bad
    if isinstance(writer, ParquetRows):
        written = as_columns(written, json.loads(row.record["extras"]).keys(), form)
    writer.write(written)
    for item in row.media:
        media.keep(item)
    return None


@contextmanager
def _staging(destination: Path) -> Iterator[Path]:
    """A directory next to the destination that is gone afterwards."""
    stage = destination.with_name(f".{destination.name}.new")
    destination.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(stage, ignore_errors=True)
    stage.mkdir()
    try:
        yield stage
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _publish(stage: Path, destination: Path) -> None:
    """Move everything to its place, the rows last: media without rows are harmless, named as they are by content."""
    folder = destination.parent / MEDIA_DIR
    if (stage / MEDIA_DIR).exists():
        folder.mkdir(exist_ok=True)
        for file in (stage / MEDIA_DIR).iterdir():
            file.replace(folder / file.name)
    for file in stage.glob(f"*{BAD_SUFFIX}"):
        file.replace(destination.parent / file.name)
    (stage / destination.name).rename(destination)
