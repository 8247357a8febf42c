"""The prompt encoder: an actor that has the prompts and runs their processor."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from mmrlhf_ray.config.base import MostMedia
from mmrlhf_ray.config.data import DataConfig
from mmrlhf_ray.data.encoding.cache import prompt_cache
from mmrlhf_ray.data.encoding.encode import (
    EncodedPrompt,
    Features,
    RawMedia,
    encode_facts,
    facts_of,
    load_encoder,
    too_many_media,
)
from mmrlhf_ray.data.encoding.features import features_table
from mmrlhf_ray.data.encoding.overlong import encode_within
from mmrlhf_ray.data.errors import RowError, bad_rows_error
from mmrlhf_ray.data.media import MediaRow
from mmrlhf_ray.data.records.quarantine import Rejected, set_row_aside, settle
from mmrlhf_ray.data.records.readers import Records, open_store
from mmrlhf_ray.data.records.shares import Shares
from mmrlhf_ray.data.records.store import LoadedRow, RowStore
from mmrlhf_ray.data.validate import same_prompt
from mmrlhf_ray.errors import DataError
from mmrlhf_ray.rollout.batch import TakeStats, shown
from mmrlhf_ray.schema import ENCODED_PROMPT, MEDIA, PROMPT

Served = Iterator[pa.Table | TakeStats]
"""ENCODED_PROMPT, PROMPT, what they cost, then MEDIA and FEATURES of each clip that shown() names, in its order."""
_SUBSTITUTES = 100
"""Rows that are tried in place of a bad one."""


@dataclass(frozen=True)
class _Encoded:
    row: LoadedRow
    prompt: EncodedPrompt


@dataclass(frozen=True)
class Begun:
    """What an encoder must be told whenever it is asked, since it may have been started again after begin()."""

    records: "ray.ObjectRef[Records]"
    left_out: frozenset[int] = frozenset()
    """Numbers of the bad rows that begin() left out."""


class PromptEncoder:
    """Serves prompts by position. The same seed and position give the same prompt, so positions are all that resuming
    needs."""

    def __init__(
        self,
        model_path: str,
        data: DataConfig,
        records: Records | None,
        quarantine_to: Path,
        seed: int,
        allowed: Sequence[str] = (),
        most_media: MostMedia | None = None,
        tools: Sequence[Mapping[str, Any]] = (),
    ):
        """With `data.streaming` rows are read when their turn comes, and `records` are not looked at. None: Begun has
        them. `tools`: JSON schemas of those that prompts describe."""
        self._encoder = load_encoder(model_path, data, allowed=allowed, tools=tools)
        self._data, self._seed, self._quarantine_to = data, seed, quarantine_to
        self._most_media = most_media
        self._cache = prompt_cache(model_path, data, tools)
        self._records = records
        self._store: RowStore | None = None

    @ray.method
    def find_bad(self, reader: int, readers: int, begun: Begun | None) -> dict[int, Rejected]:
        """Run the processor on as many prompts as DataConfig.rows_to_check() says, as far as they are this reader's;
        number → the bad ones (too long, wrong placeholders). Raises DataError."""
        store = self._serving(begun)
        checked = ((number, self._encode(row)) for number, row in store.sample(self._to_check(store), reader, readers))
        return {number: row for number, row in checked if isinstance(row, Rejected)}

    @ray.method
    def begin(self, bad: Mapping[int, Rejected], readers: int, settles: bool) -> Shares:
        """Serve all prompts but the bad ones that all readers found. `settles`: deal with these as `data.on_bad_row`
        says, which one reader does for all. Returns whose rows are whose. Raises DataError."""
        store = self._serving(None)
        if settles:
            found = [bad[number] for number in sorted(bad)]
            good = self._to_check(store) - len(bad)
            settle(found, good, store.what, self._data.on_bad_row, self._quarantine_to)
        self._store = store.without(bad)
        return self._store.shares(readers)

    def _to_check(self, store: RowStore) -> int:
        return self._data.rows_to_check(store.rows)

    def _serving(self, begun: Begun | None) -> RowStore:
        """The prompts; those that were, where this actor was started again."""
        if self._store is None:
            records = self._records if begun is None else ray.get(begun.records)
            assert records is not None
            left_out = () if begun is None else begun.left_out
            self._store = open_store(self._data, PROMPT, records, self._seed).without(left_out)
        return self._store

    @ray.method(num_returns="streaming")
    def take(self, positions: Sequence[int], begun: Begun | None = None) -> Served:
        """The prompts at these positions of an endless sequence of seeded shuffles of all prompts.

        A bad row that turns up only now is dealt with as `data.on_bad_row` says; in its place comes another, drawn
        for that position, so that all other positions stay what they are. Nothing is served before all is encoded.
        Raises DataError.
        """
        start, misses = time.monotonic(), self._cache.misses
        store = self._serving(begun)
        rows = [self._at(store, position) for position in positions]
        _refuse_conflicts([encoded.row for encoded in rows])
        yield from self._serve(list(zip(positions, rows, strict=True)), start, misses)

    @ray.method(num_returns="streaming")
    def slice(self, first: int, last: int, begun: Begun | None = None) -> Served:
        """Prompts first … last − 1 in the order of the files, for evaluation. Raises DataError for a bad one, which
        nothing can stand in for."""
        start, misses = time.monotonic(), self._cache.misses
        store = self._serving(begun)
        rows = [self._encode(row) for row in store.slice(first, last)]
        bad = [row.bad for row in rows if isinstance(row, Rejected)]
        if bad:
            raise bad_rows_error(bad, f"{store.what}: bad rows; raise data.check_rows to have all checked first")
        good = [row for row in rows if isinstance(row, _Encoded)]
        yield from self._serve(list(enumerate(good, first)), start, misses)

    def _encode(self, row: LoadedRow | Rejected) -> _Encoded | Rejected:
        """The row, encoded; or why it cannot be used."""
        if isinstance(row, Rejected):
            return row
        data, messages, clips = self._data, row.record["messages"], [RawMedia.of(clip) for clip in row.media]
        most = self._most_media
        shown = {clip.media_id: clip.kind for clip in clips}
        crowded = too_many_media([shown[media_id] for media_id in row.record["media_ids"]], most) if most else None
        if crowded is not None:
            return row.rejected(RowError(crowded, f"Show fewer or raise {most.key}" if most else ""))
        try:
            prompt = self._cache.get(
                messages,
                row.record["media_ids"],
                lambda: encode_within(self._encoder, messages, clips, data.most_prompt_tokens, data.over_long),
            )
        except RowError as error:
            return row.rejected(error)
        except ValueError as error:
            return row.rejected(RowError(str(error), "Fix the prompt or its media"))
        return _Encoded(row, prompt)

    def _at(self, store: RowStore, position: int) -> _Encoded:
        found = self._encode(store.load(position))
        draws = np.random.default_rng((self._seed, position)).integers(store.rows, size=_SUBSTITUTES)
        for draw in draws:
            if isinstance(found, _Encoded):
                return found
            set_row_aside(found, self._data.on_bad_row, self._quarantine_to)
            found = self._encode(store.load(int(draw)))
        raise DataError(f"{_SUBSTITUTES} rows in a row cannot be used; see {self._quarantine_to} for what is wrong")

    def _serve(self, rows: Sequence[tuple[int, _Encoded]], start: float, misses: int) -> Served:
        """`rows`: each with its group_id, which is the position drawn."""
        encoded: list[dict[str, Any]] = []
        features: dict[str, Features] = {}
        clips: dict[str, MediaRow] = {}
        for group_id, row in rows:
            features |= row.prompt.features
            clips |= {clip["media_id"]: clip for clip in row.row.media}
            encoded.append(self._table_row(group_id, row))
        table = pa.Table.from_pylist(encoded, schema=ENCODED_PROMPT)
        yield table
        yield pa.Table.from_pylist([row.row.record for _, row in rows], schema=PROMPT)
        size = sum(len(row["data"]) for row in clips.values())
        size += sum(array.nbytes for own in features.values() for array in own.values())
        yield TakeStats(time.monotonic() - start, size, self._cache.misses - misses)
        for media_id in shown(table):
            yield pa.Table.from_pylist([clips[media_id]], schema=MEDIA)
            yield features_table({media_id: features[media_id]})

    def _table_row(self, group_id: int, encoded: _Encoded) -> dict[str, Any]:
        """The row of ENCODED_PROMPT."""
        record, prompt = encoded.row.record, encoded.prompt
        return {
            "group_id": group_id,
            "prompt_id": record["prompt_id"],
            "task": record["task"],
            "modality": record["modality"],
            "prompt_token_ids": prompt.token_ids,
            "collapsed_token_ids": prompt.collapsed_token_ids,
            "facts_token_ids": encode_facts(self._encoder, facts_of(record["extras"], self._data.facts_column)),
            "media_ids": record["media_ids"],
        }


def _refuse_conflicts(rows: Sequence[LoadedRow]) -> None:
    """Raise DataError where two prompts of a batch have one name: rewards look their records up by it."""
    first: dict[str, LoadedRow] = {}
    for row in rows:
        known = first.setdefault(row.record["prompt_id"], row)
        if not same_prompt(known.record, row.record, PROMPT):
            here, there = row.read, known.read
            raise DataError(
                f"{here.file}, row {here.index}: prompt_id {row.record['prompt_id']!r} names another prompt in "
                f"{there.file}, row {there.index}; give every prompt its own prompt_id"
            )
