"""Exports as files that `data.path` reads."""

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy.orm import Session

from mmrlhf_ray.config import FeedbackConfig
from mmrlhf_ray.data.validate import MEDIA_LISTS
from mmrlhf_ray.errors import ConfigError
from mmrlhf_ray.feedback.annotations import JSON_COLUMNS
from mmrlhf_ray.feedback.collect.export import (
    annotation_rows,
    annotations_table,
    media_batches,
    media_rows,
    prompt_rows,
    prompts_table,
)
from mmrlhf_ray.feedback.collect.tables import MediaFile
from mmrlhf_ray.schema import MEDIA

PROMPTS = "prompts"
MEDIA_DIR = "media"


def write_export(
    session: Session,
    config: FeedbackConfig,
    out: Path,
    since: datetime | None = None,
    projects: Sequence[str] | None = None,
) -> int:
    """Write annotations to `out` and their prompts and media next to it; returns the number of annotations. `projects`:
    only those of items of these.

    `x.parquet` gets prompts.parquet and media.parquet next to it, `x.jsonl` gets prompts.jsonl and media/<sha256>: so
    that what is derived from them, written into the same directory, is read by `data.path` with its media. Raises
    ConfigError for another ending, and for files that are there.
    """
    writers: dict[str, Callable[[Session, FeedbackConfig, Path, datetime | None, Sequence[str] | None], int]] = {
        ".parquet": _write_parquet,
        ".jsonl": _write_jsonl,
    }
    if out.suffix not in writers:
        raise ConfigError(f"{out}: expected a file that ends in {' or '.join(writers)}")
    beside = [out, out.with_name(PROMPTS + out.suffix)]
    there = [path for path in beside if path.exists()]
    if there:
        raise ConfigError(f"{there[0]} is there already; name a file in a new directory")
    out.parent.mkdir(parents=True, exist_ok=True)
    return writers[out.suffix](session, config, out, since, projects)


def _write_parquet(
    session: Session, config: FeedbackConfig, out: Path, since: datetime | None, projects: Sequence[str] | None
) -> int:
    media = out.with_name("media.parquet")
    with _replacing(media) as partial, pq.ParquetWriter(partial, MEDIA) as writer:
        for batch in media_batches(session, config, projects):
            writer.write_table(batch)
    _write_table(prompts_table(session, projects), out.with_name(f"{PROMPTS}.parquet"))
    annotations = annotations_table(session, since, projects=projects)
    _write_table(annotations, out)
    return annotations.num_rows


def _write_jsonl(
    session: Session, config: FeedbackConfig, out: Path, since: datetime | None, projects: Sequence[str] | None
) -> int:
    directory = out.with_name(MEDIA_DIR)
    directory.mkdir(exist_ok=True)
    kinds = {}
    for row in media_rows(session, config, projects):
        kinds[row["media_id"]] = row["kind"]
        with _replacing(directory / row["media_id"]) as partial:
            partial.write_bytes(row["data"])
    prompts = (_with_paths(row, kinds) for row in prompt_rows(session, projects))
    _write_lines(prompts, out.with_name(f"{PROMPTS}.jsonl"))
    return _write_lines(map(json_row, annotation_rows(session, since, projects=projects)), out)


def json_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the ANNOTATION table as an object of JSON lines."""
    return {key: json.loads(value) if key in JSON_COLUMNS else value for key, value in row.items()}


def prompt_json(session: Session, row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the PROMPT table as an object of JSON lines, its media named by path below the export."""
    kinds = {i: session.get_one(MediaFile, i).kind for i in row["media_ids"]}
    return _with_paths(row, kinds)


def _with_paths(row: Mapping[str, Any], kinds: Mapping[str, str]) -> dict[str, Any]:
    ids = row["media_ids"]
    lists = {key: [f"{MEDIA_DIR}/{i}" for i in ids if kinds[i] == kind] for kind, key in MEDIA_LISTS.items()}
    plain = {key: row[key] for key in ("prompt_id", "task")}
    parsed = {key: json.loads(row[key]) for key in ("messages", "extras")}
    return plain | parsed | {key: paths for key, paths in lists.items() if paths}


def _write_table(table: pa.Table, path: Path) -> None:
    with _replacing(path) as partial:
        pq.write_table(table, partial)


def _write_lines(rows: Iterable[Mapping[str, Any]], path: Path) -> int:
    count = 0
    with _replacing(path) as partial, partial.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    return count


class _replacing:
    """A file next to `path` that takes its place when all is written."""

    def __init__(self, path: Path) -> None:
        self._path, self._partial = path, path.with_name(f".{path.name}.{os.getpid()}.partial")

    def __enter__(self) -> Path:
        return self._partial

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            os.replace(self._partial, self._path)
        else:
            self._partial.unlink(missing_ok=True)
