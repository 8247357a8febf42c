"""Data sets as they are opened, and one of their rows to a record with what it shows."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa

from mmrlhf_ray.config.data import DataConfig, SourceConfig
from mmrlhf_ray.config.paths import HUB
from mmrlhf_ray.data.errors import BadRow, RowError, place_of
from mmrlhf_ray.data.formats import Format, as_raw_row, fitting_names, format_named, kind_of, tell
from mmrlhf_ray.data.records.columns import Columns, check_columns, object_of
from mmrlhf_ray.data.records.media_table import ParquetMedia
from mmrlhf_ray.data.records.quarantine import Rejected
from mmrlhf_ray.data.records.sound_track import with_sound_tracks
from mmrlhf_ray.data.records.sources import DerivedMedia, FileMedia
from mmrlhf_ray.data.records.text_hooks import TextHookRunner
from mmrlhf_ray.data.rowfiles import MEDIA_FILE, Fragment, Row, RowFile, open_rows, row_files
from mmrlhf_ray.data.rowfiles.base import Unreadable, filesystem, version_of
from mmrlhf_ray.data.rowfiles.tables import ParquetRows
from mmrlhf_ray.data.validate import Shown, build_record, conversation
from mmrlhf_ray.errors import DataError

_LOOKED_OVER = 16
"""Data sets whose format a process keeps in mind."""


@dataclass(frozen=True)
class Source:
    """One data set of the mixture, found and looked over. Small: it travels to every process that reads."""

    config: SourceConfig
    fragments: tuple[Fragment, ...]
    form: Format
    told: bool = False
    """Whether the format was told from the rows, not named."""

    @property
    def files(self) -> list[str]:
        return list(dict.fromkeys(fragment.file for fragment in self.fragments))


@dataclass(frozen=True)
class ReadRow:
    """A row that passed every check but the decoding of its media."""

    file: str
    index: int
    """Number in the file, from 0."""
    raw: Mapping[str, Any]
    record: dict[str, Any]
    shown: list[Shown]

    def rejected(self, error: RowError) -> Rejected:
        """The row as a bad one."""
        return rejected(self.file, self.index, self.raw, error)


def open_sources(config: DataConfig) -> tuple[Source, ...]:
    """Every data set of the mixture; one whose files are as they were is looked over once in a process.

    Raises DataError for one that cannot be read, has no rows, or fits no format.
    """
    return tuple(_open(source.model_dump_json(), _versions(source.path)) for source in config.mixture)


def _versions(path: str) -> tuple[object, ...]:
    """Others once a file of a data set is replaced."""
    return tuple((file, version_of(file)) for file in (path, *row_files(path)))


@lru_cache(maxsize=_LOOKED_OVER)
def _open(described: str, versions: tuple[object, ...]) -> Source:
    """`described`: its SourceConfig as JSON."""
    config = SourceConfig.model_validate_json(described)
    rows = open_rows(config)
    fragments = tuple(rows.fragments())
    if not fragments:
        raise DataError(f"{config.path}: no rows; give at least one record")
    check_columns((row for fragment in fragments for _, row in rows.read(fragment)), config.columns, config.path)
    if config.format:
        return Source(config, fragments, format_named(config.format))
    if next(_objects(rows, fragments, config.columns), None) is None:
        return Source(config, fragments, format_named("mmrlhf"))
    try:
        form = tell(_objects(rows, fragments, config.columns))
    except DataError as error:
        raise DataError(f"{config.path}: {error}") from error
    return Source(config, fragments, form, told=True)


def _objects(rows: RowFile, fragments: Sequence[Fragment], columns: Columns) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, row) of every row that is an object."""
    for fragment in fragments:
        for number, row in rows.read(fragment):
            found = _object_or_none(row, columns)
            if found is not None:
                yield place_of(fragment.file, number), found


class SourceReader:
    """Reads the rows of one data set."""

    def __init__(self, source: Source, config: DataConfig, schema: pa.Schema) -> None:
        self.source = source
        self._config, self._schema, self._kind = config, schema, kind_of(schema)
        self._rows: RowFile = open_rows(source.config)
        self._root = _media_root(config, source.files[0])
        self._stored = _media_beside(self._rows, source.files[0])
        self._hooks = TextHookRunner(config.text)
        self._hooks.start()
        self.redacted: Counter[str] = Counter()
        """Counts of redactions so far, by label."""

    def close(self) -> None:
        """End what text hooks run in."""
        self._hooks.close()

    def raw(self, fragment: Fragment) -> Iterator[tuple[int, Row]]:
        """The rows of a fragment as they are stored."""
        return self._rows.read(fragment)

    def media(self) -> DerivedMedia:
        """Where rows find their media. What holds media is made anew, so that they go when the caller lets go."""
        if self._stored is not None:
            return DerivedMedia(self._stored)
        return DerivedMedia(FileMedia(self._root, self._config.limits, self._config.remote))

    def parse(self, file: str, index: int, row: Row, media: DerivedMedia) -> ReadRow | Rejected:
        """One row, checked, with its media found in `media`."""
        original: Mapping[str, Any] = row if isinstance(row, dict) else {"line": _text_of(row)}
        try:
            original = object_of(row, self.source.config.columns)
            raw = self._raw(original)
            if self.source.config.task is not None:
                raw.setdefault("task", self.source.config.task)
            if self._stored is None and not raw.get("media_ids", True):
                del raw["media_ids"]  # the empty list of a record without media
            raw, counts = self._hooks.apply(raw)
            self.redacted.update(counts)
            messages, parts = conversation(raw)
            shown = media.attach(raw, parts)
            messages, shown, made = with_sound_tracks(messages, shown, media.get, self._config)
            for sound in made:
                media.add(sound)
            if made:
                raw.pop("modality", None)  # what it was without them
            record = build_record(raw, self._schema, messages, shown, self._config.facts_column)
        except RowError as error:
            return rejected(file, index, original, error)
        return ReadRow(file, index, original, record, shown)

    def _raw(self, original: Mapping[str, Any]) -> dict[str, Any]:
        form = self.source.form
        others = fitting_names(original) if self.source.told and not form.matches(original) else []
        if others and form.name not in others:
            raise RowError(
                f"its keys are those of {' or '.join(others)}, the rows before it are {form.name}",
                "keep rows of one format in a data set, or name the format with data.format or --format",
            )
        return as_raw_row(original, form, self._kind)


def _text_of(row: bytes | Unreadable) -> str:
    return row.text if isinstance(row, Unreadable) else row.decode("utf-8", "replace")


def rejected(file: str, index: int, original: Mapping[str, Any], error: RowError) -> Rejected:
    """A bad row with the record as it was read."""
    return Rejected(BadRow(file, index, str(original.get("prompt_id", "")), error.reason, error.remedy), original)


def _media_root(config: DataConfig, file: str) -> Path | None:
    """The directory that paths in rows are relative to; None for rows that lie in none."""
    if config.media_root is not None:
        return Path(config.media_root)
    if file.startswith(HUB):
        directory = Path(file.removeprefix(HUB).partition(":")[0])
        return directory if directory.is_dir() else None
    if "://" in file:
        return None
    return Path(file) if Path(file).is_dir() else Path(file).parent


def _media_beside(rows: RowFile, file: str) -> ParquetMedia | None:
    """The media.parquet in the directory of a Parquet file."""
    if not isinstance(rows, ParquetRows):
        return None
    directory, slash, _ = file.rpartition("/")
    beside = f"{directory}{slash}{MEDIA_FILE}"
    fs, inside = filesystem(beside)
    return ParquetMedia(beside) if fs.exists(inside) else None


def _object_or_none(row: Row, columns: Columns) -> dict[str, Any] | None:
    try:
        return object_of(row, columns)
    except RowError:
        return None


def files_of(sources: Sequence[Source]) -> list[str]:
    """Every file of the mixture."""
    return [file for source in sources for file in source.files]


def name_of(sources: Sequence[Source]) -> str:
    """The mixture in a message about its rows."""
    files = files_of(sources)
    return files[0] if len(files) == 1 else f"{len(files)} files of data"
