"""Exports, records and the files of other tools: from one directory to another."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import pyarrow as pa
import pyarrow.parquet as pq

from mmrlhf_ray.errors import DataError
from mmrlhf_ray.feedback.annotations import JSON_COLUMNS, Annotation, annotations_of, annotations_table
from mmrlhf_ray.feedback.formats.argilla import argilla_datasets, argilla_files, read_argilla
from mmrlhf_ray.feedback.formats.common import Imported
from mmrlhf_ray.feedback.formats.label_studio import label_studio_config, label_studio_tasks, read_label_studio
from mmrlhf_ray.feedback.formats.regions import in_argilla, in_label_studio, media_keys
from mmrlhf_ray.feedback.labels.derive import derive_demonstrations, derive_preferences, derive_rankings
from mmrlhf_ray.schema import ANNOTATION, MEDIA, PROMPT

DerivedKind = Literal["preference", "ranking", "demonstration"]

_DERIVED: Mapping[str, Callable[[Sequence[Annotation], pa.Table], pa.Table]] = {
    "preference": derive_preferences,
    "ranking": derive_rankings,
    "demonstration": derive_demonstrations,
}
_MEDIA_DIR = "media"

Tool = Literal["argilla", "label_studio"]


def derived_kind(name: str) -> DerivedKind:
    """Raises DataError naming the kinds that there are."""
    if name not in _DERIVED:
        raise DataError(f"kind {name!r} is unknown; expected one of {', '.join(_DERIVED)}")
    return cast("DerivedKind", name)


def tool_named(name: str) -> Tool:
    """Raises DataError naming the tools that there are."""
    if name not in _READERS:
        raise DataError(f"tool {name!r} is unknown; expected one of {', '.join(_READERS)}")
    return cast("Tool", name)


@dataclass(frozen=True)
class Written:
    """What was written for another tool."""

    items: int
    """Records or tasks."""
    regions_kept: int
    """Regions that the tool cannot show; they travel in the key `mmrlhf` alone."""


@dataclass(frozen=True)
class Exported:
    """The files written by `mmrlhf feedback export x.parquet`."""

    annotations: list[Annotation]
    prompts: pa.Table
    """PROMPT."""
    media: pa.Table
    """MEDIA."""

    @property
    def tasks(self) -> dict[str, str]:
        """prompt_id → task."""
        return dict(zip(self.prompts["prompt_id"].to_pylist(), self.prompts["task"].to_pylist(), strict=True))


def read_export(file: Path) -> Exported:
    """An ANNOTATION table with prompts.parquet and media.parquet next to it. Raises DataError where one is missing."""
    tables = {}
    for path, schema in (
        (file, ANNOTATION),
        (file.with_name("prompts.parquet"), PROMPT),
        (file.with_name("media.parquet"), MEDIA),
    ):
        if not path.is_file() or path.suffix != ".parquet":
            raise DataError(f"{path}: expected a Parquet file; write one with `mmrlhf feedback export x.parquet`")
        tables[schema.metadata[b"mmrlhf.table"]] = pq.read_table(path, schema=schema)
    return Exported(annotations_of(tables[b"ANNOTATION"]), tables[b"PROMPT"], tables[b"MEDIA"])


def write_derived(exported: Exported, kind: DerivedKind, out: Path) -> int:
    """Write a directory that `data.path` reads, with the rules' defaults; returns the number of records.

    Raises DataError where nothing comes of the annotations, or `out` holds anything but records.
    """
    records = _DERIVED[kind](exported.annotations, exported.prompts)
    if not records.num_rows:
        raise DataError(f"no {kind} comes of the {len(exported.annotations)} annotations; see docs/feedback.md")
    write_shown(out, records, exported.media)
    return records.num_rows


def write_shown(out: Path, records: pa.Table, media: pa.Table) -> None:
    """Write a directory that `data.path` reads, with those of the media that the records show."""
    from mmrlhf_ray.data.records.readers import write_records  # Ray comes with it

    shown = {media_id for ids in records["media_ids"].to_pylist() for media_id in ids}
    kept = pa.array([media_id in shown for media_id in media["media_id"].to_pylist()], pa.bool_())
    write_records(out, records, media.filter(kept))


def write_argilla(exported: Exported, out: Path) -> Written:
    """Write a directory for each data set below `out`, and the media into `out`/media.

    Raises DataError for what Argilla cannot express, and where `out` is there already.
    """
    datasets = argilla_datasets(exported.annotations, exported.prompts, _media_names(exported.media))
    files = {f"{d.name}/{path}": text for d in datasets for path, text in argilla_files(d).items()}
    _write(out, files, exported.media)
    kept = sum(not in_argilla(region) for annotation in exported.annotations for region in annotation.regions)
    return Written(sum(len(dataset.records) for dataset in datasets), kept)


def write_label_studio(exported: Exported, out: Path) -> Written:
    """Write, for each kind of question and number of responses, the tasks and the labelling configuration into `out`,
    and the media into `out`/media. Raises DataError as write_argilla() does."""
    groups: dict[tuple[str, int], list[Annotation]] = {}
    for annotation in exported.annotations:
        groups.setdefault((annotation.kind, len(annotation.responses)), []).append(annotation)
    keys = {row["prompt_id"]: media_keys(row) for row in exported.prompts.to_pylist()}
    files, count = {}, 0
    for (kind, responses), made in groups.items():
        tasks = label_studio_tasks(made, exported.prompts, _media_names(exported.media))
        aspects = list(dict.fromkeys(aspect for annotation in made for aspect in _aspects_of(annotation)))
        files[f"{kind}_{responses}.json"] = json.dumps(tasks, ensure_ascii=False, indent=2)
        files[f"{kind}_{responses}.xml"] = label_studio_config(tasks[0], kind, aspects)
        count += len(tasks)
    _write(out, files, exported.media)
    kept = sum(
        not in_label_studio(annotation.kind, keys[annotation.prompt_id])(region)
        for annotation in exported.annotations
        for region in annotation.regions
    )
    return Written(count, kept)


def _aspects_of(annotation: Annotation) -> list[str]:
    """Those that it rates, and those that its regions are about."""
    return [*annotation.aspects, *(region.aspect for region in annotation.regions if region.aspect)]


def _media_names(media: pa.Table) -> dict[str, str]:
    return {media_id: f"{_MEDIA_DIR}/{media_id}" for media_id in media["media_id"].to_pylist()}


def _write(out: Path, files: Mapping[str, str], media: pa.Table) -> None:
    if out.exists():
        raise DataError(f"{out} is there already; name a new directory")
    stage = out.with_name(f".{out.name}.new")
    for name, text in files.items():
        (stage / name).parent.mkdir(parents=True, exist_ok=True)
        (stage / name).write_text(text, encoding="utf-8")
    (stage / _MEDIA_DIR).mkdir(parents=True, exist_ok=True)
    for row in media.to_pylist():
        (stage / _MEDIA_DIR / row["media_id"]).write_bytes(row["data"])
    stage.rename(out)


WRITERS: Mapping[Tool, Callable[[Exported, Path], Written]] = {
    "argilla": write_argilla,
    "label_studio": write_label_studio,
}
_READERS: Mapping[str, Callable[[Sequence[Mapping[str, Any]]], Imported]] = {
    "argilla": read_argilla,
    "label_studio": read_label_studio,
}


def read_foreign(file: Path, tool: Tool) -> Imported:
    """The records of Argilla or the tasks of Label Studio in a .json or .jsonl file. Raises DataError."""
    text = file.read_text(encoding="utf-8")
    try:
        rows = [json.loads(line) for line in text.splitlines() if line] if file.suffix == ".jsonl" else json.loads(text)
    except ValueError as error:
        raise DataError(f"{file} is not JSON: {error}; export it again") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{file}: expected a list of objects, as {tool} exports them")
    return _READERS[tool](rows)


def write_imported(imported: Imported, out: Path) -> int:
    """Write annotations.jsonl and prompts.jsonl into a new directory; returns the number of annotations.

    Prompts are raw rows (docs/data.md), whose media stay where they are; annotations as an export in JSON lines has
    them. Raises DataError where `out` is there already.
    """
    lines = []
    for row in annotations_table(imported.annotations).to_pylist():
        lines.append(row | {key: json.loads(row[key]) for key in JSON_COLUMNS})
    files = {
        f"{name}.jsonl": "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        for name, rows in (("annotations", lines), ("prompts", imported.prompts))
    }
    _write(out, files, pa.Table.from_pylist([], schema=MEDIA))
    return len(lines)
