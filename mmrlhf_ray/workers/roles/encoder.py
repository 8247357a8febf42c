"""The prompt encoder: the one actor that holds or reads the prompts and runs their processor."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmrlhf_ray.config.data import DataConfig
from mmrlhf_ray.data.encoding.cache import prompt_cache
from mmrlhf_ray.data.encoding.encode import EncodedPrompt, Features, encode_facts, load_encoder
from mmrlhf_ray.data.encoding.features import feature_bytes, features_table
from mmrlhf_ray.data.encoding.overlong import encode_within
from mmrlhf_ray.data.errors import RowError
from mmrlhf_ray.data.media import MediaRow
from mmrlhf_ray.data.records.extras import facts_of
from mmrlhf_ray.data.records.quarantine import Rejected, set_row_aside, settle
from mmrlhf_ray.data.records.readers import Records
from mmrlhf_ray.data.records.rows import files_of, open_sources
from mmrlhf_ray.data.records.store import RowStore
from mmrlhf_ray.data.validate import same_prompt
from mmrlhf_ray.errors import DataError
from mmrlhf_ray.schema import ENCODED_PROMPT, MEDIA, PROMPT
from mmrlhf_ray.workers.roles.prompt_rows import HeldRows, PromptRow, PromptRows, StoredRows, held_rows

_SUBSTITUTES = 100
"""Rows that are tried in place of a bad one."""


@dataclass(frozen=True)
class TakeStats:
    """What it took to serve one batch of prompts."""

    seconds: float
    media_bytes: int
    """Raw media and features that go through the object store."""
    media_bytes_unique: int
    """The same with each clip counted once."""
    processor_calls: int


@dataclass(frozen=True)
class _Ready:
    row: PromptRow
    prompt: EncodedPrompt


class PromptEncoder:
    """Serves prompts by position. The same seed and position give the same prompts, so a cursor is all that resuming
    needs."""

    def __init__(self, model_path: str, data: DataConfig, records: Records, quarantine_to: Path, seed: int):
        """With `data.streaming` rows are read when their turn comes, and `records` are not looked at."""
        self._encoder = load_encoder(model_path, data)
        self._data, self._seed, self._quarantine_to = data, seed, quarantine_to
        self._cache = prompt_cache(model_path, data)
        self._records = None if data.streaming else records
        self._held: list[PromptRow] = []
        self._rows: PromptRows
        self._taken: tuple[int, list[_Ready]] = (0, [])

    def check_prompts(self) -> int:
        """Run the processor on the first `data.check_rows` prompts, or all; returns how many rows there are to serve.
        Must come before any other call.

        Bad ones (too long, wrong placeholders) are dealt with as `data.on_bad_row` says. Raises DataError.
        """
        if self._records is None:
            self._check_stored()
        else:
            candidates = held_rows(self._records)
            count = min(self._data.check_rows or len(candidates), len(candidates))
            good = self._check(candidates[:count], self._records.file)
            self._held = good + candidates[count:]
            self._rows = HeldRows(self._held, [source.weight for source in self._data.mixture], self._seed)
        return self._rows.rows

    def _check_stored(self) -> None:
        sources = open_sources(self._data)
        self._rows = StoredRows(RowStore(self._data, PROMPT, sources, self._seed))
        count = min(self._data.check_rows or self._rows.rows, self._rows.rows)
        rejected, good = [], 0
        for position in range(count):
            found = self._ready(self._rows.at(position))
            if isinstance(found, Rejected):
                rejected.append(found)
            else:
                good += 1
        files = files_of(sources)
        what = files[0] if len(files) == 1 else f"{len(files)} files of data"
        settle(rejected, good, what, self._data.on_bad_row, self._quarantine_to)

    def _check(self, rows: Sequence[PromptRow], file: str) -> list[PromptRow]:
        """The rows that can be used."""
        good, rejected = list[PromptRow](), list[Rejected]()
        for row in rows:
            found = self._ready(row)
            if isinstance(found, Rejected):
                rejected.append(found)
            else:
                good.append(row)
        settle(rejected, len(good), file, self._data.on_bad_row, self._quarantine_to)
        return good

    def _ready(self, row: PromptRow | Rejected) -> _Ready | Rejected:
        """The row, encoded; or why it cannot be used."""
        if isinstance(row, Rejected):
            return row
        try:
            return _Ready(row, self._encode(row))
        except RowError as error:
            return row.rejected(error)
        except ValueError as error:
            return row.rejected(RowError(str(error), "Mend the prompt or its media"))

    def _encode(self, row: PromptRow) -> EncodedPrompt:
        messages, media_ids, data = row.record["messages"], row.record["media_ids"], self._data
        return self._cache.get(
            messages,
            media_ids,
            lambda: encode_within(self._encoder, messages, row.clips, data.max_prompt_tokens, data.over_long),
        )

    def take(self, cursor: int, n: int) -> tuple[pa.Table, pa.Table, pa.Table, TakeStats]:
        """Prompts `cursor` … `cursor + n − 1` of an endless sequence of seeded shuffles of all prompts.

        A bad row that turns up only now is dealt with as `data.on_bad_row` says; in its place comes another, drawn
        for that position, so that all other positions stay what they are. Returns ENCODED_PROMPT in that order, and
        MEDIA and FEATURES with each clip once. Raises DataError.
        """
        start, misses = time.monotonic(), self._cache.misses
        rows = [self._at(cursor + i) for i in range(n)]
        _refuse_conflicts([ready.row for ready in rows])
        self._taken = (cursor, rows)
        return self._serve(rows, start, misses)

    def prompts(self, cursor: int, n: int) -> pa.Table:
        """The PROMPT records that take() has just served."""
        first, rows = self._taken
        assert (first, len(rows)) == (cursor, n), "asked for another batch than the last"
        return pa.Table.from_pylist([dict(ready.row.record) for ready in rows], schema=PROMPT)

    def slice(self, first: int, last: int) -> tuple[pa.Table, pa.Table, pa.Table, TakeStats]:
        """Prompts first … last − 1 in file order, for evaluation. Not for streamed rows."""
        start, misses = time.monotonic(), self._cache.misses
        return self._serve([_Ready(row, self._encode(row)) for row in self._held[first:last]], start, misses)

    def _at(self, position: int) -> _Ready:
        found = self._ready(self._rows.at(position))
        draws = np.random.default_rng((self._seed, position)).integers(self._rows.rows, size=_SUBSTITUTES)
        for draw in draws:
            if isinstance(found, _Ready):
                return found
            set_row_aside(found, self._data.on_bad_row, self._quarantine_to)
            found = self._ready(self._rows.at(int(draw)))
        raise DataError(f"{_SUBSTITUTES} rows in a row cannot be used; see {self._quarantine_to} for what is wrong")

    def _serve(
        self, rows: Sequence[_Ready], start: float, misses: int
    ) -> tuple[pa.Table, pa.Table, pa.Table, TakeStats]:
        encoded: list[dict[str, Any]] = []
        features: dict[str, Features] = {}
        clips: dict[str, MediaRow] = {}
        for ready in rows:
            features |= ready.prompt.features
            clips |= {media_id: ready.row.media[media_id] for media_id in ready.row.record["media_ids"]}
            encoded.append(self._encoded(ready))
        media = pa.Table.from_pylist(list(clips.values()), schema=MEDIA)
        table = features_table(features)
        unique = sum(len(row["data"]) for row in clips.values())
        unique += sum(array.nbytes for own in features.values() for array in own.values())
        stats = TakeStats(
            seconds=time.monotonic() - start,
            media_bytes=(pc.sum(pc.binary_length(media.column("data"))).as_py() or 0) + feature_bytes(table),
            media_bytes_unique=unique,
            processor_calls=self._cache.misses - misses,
        )
        return pa.Table.from_pylist(encoded, schema=ENCODED_PROMPT), media, table, stats

    def _encoded(self, ready: _Ready) -> dict[str, Any]:
        """The row of ENCODED_PROMPT."""
        record, prompt = ready.row.record, ready.prompt
        return {
            "prompt_id": record["prompt_id"],
            "task": record["task"],
            "modality": record["modality"],
            "prompt_token_ids": prompt.token_ids,
            "collapsed_token_ids": prompt.collapsed_token_ids,
            "facts_token_ids": encode_facts(self._encoder, facts_of(record["extras"], self._data.facts_column)),
            "media_ids": record["media_ids"],
        }


def _refuse_conflicts(rows: Sequence[PromptRow]) -> None:
    """Raise DataError where two prompts of a batch have one name: their samples would be taken for one group."""
    first: dict[str, PromptRow] = {}
    for row in rows:
        known = first.setdefault(row.record["prompt_id"], row)
        if not same_prompt(known.record, row.record, PROMPT):
            here, there = (r.rejected(RowError("", "")).bad for r in (row, known))
            raise DataError(
                f"{here.file}, row {here.row}: prompt_id {row.record['prompt_id']!r} names another prompt in "
                f"{there.file}, row {there.row}; give every prompt its own prompt_id"
            )
