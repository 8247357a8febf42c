"""A data set's format, its contents, how long its prompts are, and every row that cannot be used."""

import json
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import psutil

from mmrlhf_ray.config.data import DataConfig
from mmrlhf_ray.data.errors import BadRow, printable
from mmrlhf_ray.data.formats import Kind
from mmrlhf_ray.data.records.quarantine import Rejected
from mmrlhf_ray.data.records.store import LoadedRow
from mmrlhf_ray.pipelines.data.check_report import render
from mmrlhf_ray.pipelines.data.found import Found, Names, note_rest
from mmrlhf_ray.pipelines.data.rows import OpenData, Stages, checked_rows, open_data
from mmrlhf_ray.runtime.progress import Progress

if TYPE_CHECKING:
    from mmrlhf_ray.pipelines.data.tokens import TokenCounter

_BAD_KEPT = 20
_MARK = 0.2
_SHOW_EVERY = 64


def run(
    config: DataConfig,
    kind: Kind | None,
    model: Path | None,
    output: Path | None,
    strict: bool,
    allowed: tuple[str, ...] = (),
) -> bool:
    """Check every row, print what was found, and write bad rows to `output` as JSON lines.

    `model`: a model directory, whose processor counts the tokens; `allowed` as of load_encoder(). Returns False where
    `strict` and a row is bad. Raises DataError for data that cannot be opened, ModelError for a model that cannot be
    used.
    """
    counter = None
    if model is not None:
        from mmrlhf_ray.pipelines.data.tokens import TokenCounter  # torch and transformers, which take seconds

        counter = TokenCounter.of(model, config, allowed)
    data = open_data(config, kind)
    stages, found = Stages(), Found()
    if output is None:
        _check(data, counter, stages, found, None)
    else:
        _check_into(output, data, counter, stages, found)
    print(printable(render(data, found, stages, output)))
    return not (strict and found.bad)


def _check_into(output: Path, data: OpenData, counter: "TokenCounter | None", stages: Stages, found: Found) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    fresh = output.with_name(f".{output.name}.new-{os.getpid()}")
    try:
        with fresh.open("w", encoding="utf-8") as file:
            _check(data, counter, stages, found, file)
        fresh.replace(output)
    finally:
        fresh.unlink(missing_ok=True)


def _check(data: OpenData, counter: "TokenCounter | None", stages: Stages, found: Found, output: TextIO | None) -> None:
    names, total, shown = Names(), data.store.rows, 0
    began = time.perf_counter()
    with Progress("check", total, "row") as progress:
        for row in checked_rows(data, stages):
            found.rows += 1
            if isinstance(row, LoadedRow) and counter is not None:
                with stages.timed("counting tokens"):
                    row = counter.counted(row, found)
            if isinstance(row, Rejected):
                _note(row.bad, found, output)
            else:
                found.modality[row.record["modality"]] += 1
                found.task[row.record["task"]] += 1
                names.count(row, found)
                note_rest(row.record, found)
            if not found.memory_at_mark and found.rows >= _MARK * total:
                found.memory_at_mark = _resident()
            if found.rows % _SHOW_EVERY == 0 or found.rows == total:
                progress.update(found.rows, found.rows - shown)
                shown = found.rows
    found.memory_at_end, found.seconds = _resident(), time.perf_counter() - began


def _note(bad: BadRow, found: Found, output: TextIO | None) -> None:
    found.bad += 1
    if len(found.bad_kept) < _BAD_KEPT:
        found.bad_kept.append(bad)
    if output is not None:
        output.write(json.dumps(asdict(bad)) + "\n")


def _resident() -> int:
    """Bytes of this process and those it started."""
    process = psutil.Process()
    total: int = process.memory_info().rss
    for child in process.children(recursive=True):
        try:
            total += child.memory_info().rss
        except psutil.NoSuchProcess:  # decoding processes are replaced now and then
            continue
    return total
