"""A data set's format, its contents, how long its prompts are, and every row that cannot be used."""

import json
import os
import time
from array import array
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

import psutil

from mmrlhf_ray.config.data import DataConfig
from mmrlhf_ray.data.encoding.encode import (
    EncodedPrompt,
    Encoder,
    RawMedia,
    encode_prompt,
    encode_response,
    load_encoder,
)
from mmrlhf_ray.data.errors import BadRow, RowError, printable
from mmrlhf_ray.data.formats import Kind
from mmrlhf_ray.data.records.quarantine import Rejected
from mmrlhf_ray.data.records.store import LoadedRow
from mmrlhf_ray.pipelines.data.check_report import render
from mmrlhf_ray.pipelines.data.found import Found, Names, note_rest
from mmrlhf_ray.pipelines.data.rows import OpenData, Stages, checked_rows, open_data
from mmrlhf_ray.runtime.progress import Progress

_BAD_KEPT = 20
_MARK = 0.2
_SHOW_EVERY = 64
_ANSWERS = ("response", "chosen", "rejected")


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
    encoder = load_encoder(model, config, allowed=allowed) if model is not None else None
    data = open_data(config, kind)
    stages, found = Stages(), Found()
    if output is None:
        _check(data, encoder, stages, found, None)
    else:
        _check_into(output, data, encoder, stages, found)
    print(printable(render(data, found, stages, output)))
    return not (strict and found.bad)


def _check_into(output: Path, data: OpenData, encoder: Encoder | None, stages: Stages, found: Found) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    fresh = output.with_name(f".{output.name}.new-{os.getpid()}")
    try:
        with fresh.open("w", encoding="utf-8") as file:
            _check(data, encoder, stages, found, file)
        fresh.replace(output)
    finally:
        fresh.unlink(missing_ok=True)


def _check(data: OpenData, encoder: Encoder | None, stages: Stages, found: Found, output: TextIO | None) -> None:
    names, total, shown = Names(), data.store.rows, 0
    began = time.perf_counter()
    with Progress("check", total, "row") as progress:
        for row in checked_rows(data, stages):
            found.rows += 1
            if isinstance(row, LoadedRow) and encoder is not None:
                with stages.timed("counting tokens"):
                    row = _counted(row, encoder, data.config, found)
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


def _counted(row: LoadedRow, encoder: Encoder, config: DataConfig, found: Found) -> LoadedRow | Rejected:
    media = [RawMedia.of(m) for m in row.media]
    try:
        prompt = encode_prompt(encoder, row.record["messages"], media)
        answers = [(name, len(encode_response(encoder, text))) for name, text in _answers(row.record)]
    except ValueError as error:
        return row.rejected(error if isinstance(error, RowError) else RowError(str(error), "fix it or leave it out"))
    for name, tokens in [*_lengths(prompt, len(media)).items(), *answers]:
        found.tokens.setdefault(name, array("l")).append(tokens)
    found.too_long += len(prompt.token_ids) > config.most_prompt_tokens
    return row


def _lengths(prompt: EncodedPrompt, clips: int) -> dict[str, int]:
    """A clip is one placeholder before the processor expands it."""
    text = len(prompt.collapsed_token_ids) - clips
    return {"text": text, "media": len(prompt.token_ids) - text, "prompt": len(prompt.token_ids)}


def _answers(record: dict[str, Any]) -> list[tuple[str, str]]:
    own = [(name, record[name]) for name in _ANSWERS if name in record]
    return own + [("response", text) for text in record.get("responses", ())]


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
