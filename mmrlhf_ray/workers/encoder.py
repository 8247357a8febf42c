"""The prompt encoder: the one actor that holds the prompts and runs their processor."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mmrlhf_ray.config.base import DataConfig
from mmrlhf_ray.data.cache import PromptCache
from mmrlhf_ray.data.encode import EncodedPrompt, Features, RawMedia, encode_facts, encode_prompt, load_encoder
from mmrlhf_ray.data.errors import BadRow
from mmrlhf_ray.data.extras import facts_of
from mmrlhf_ray.data.features import feature_bytes, features_table
from mmrlhf_ray.data.quarantine import Rejected, settle
from mmrlhf_ray.data.readers import Records
from mmrlhf_ray.schema import ENCODED_PROMPT, MEDIA


@dataclass(frozen=True)
class TakeStats:
    """What it took to serve one batch of prompts."""

    seconds: float
    media_bytes: int
    """Raw media and features that go through the object store."""
    processor_calls: int


class PromptEncoder:
    """Serves prompts by position. The same seed and position give the same prompts, so a cursor is all that resuming
    needs."""

    def __init__(self, model_path: str, data: DataConfig, records: Records, quarantine_to: Path, seed: int):
        self._encoder = load_encoder(model_path)
        self._data = data
        self._seed = seed
        self._clips = {r["media_id"]: RawMedia(r["media_id"], r["kind"], r["data"]) for r in records.media.to_pylist()}
        self._mimes = dict(zip(*(records.media.column(c).to_pylist() for c in ("media_id", "mime")), strict=True))
        self._cache = PromptCache(data.encoder_cache_mb << 20)
        self._records, self._quarantine_to = records, quarantine_to
        self._rows: list[dict[str, Any]] = []
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def check_prompts(self) -> int:
        """Run the processor on every prompt; returns how many can be used. Must come before any other call.

        Bad ones (too long, wrong placeholders) are dealt with as `data.on_bad_row` says. Raises DataError.
        """
        self._rows = self._usable(self._records, self._quarantine_to)
        return len(self._rows)

    def _usable(self, records: Records, quarantine_to: Path) -> list[dict[str, Any]]:
        good, rejected = [], []
        for number, row in enumerate(records.records.to_pylist()):
            problem = self._problem(row)
            if problem is None:
                good.append(row)
                continue
            bad = BadRow(records.file, records.rows[number], row["prompt_id"], *problem)
            rejected.append(Rejected(bad, row))
        settle(rejected, len(good), records.file, self._data.on_bad_row, quarantine_to)
        return good

    def _problem(self, row: dict[str, Any]) -> tuple[str, str] | None:
        try:
            tokens = len(self._encode(row).token_ids)
        except ValueError as error:
            return str(error), "Mend the prompt or its media"
        if tokens <= self._data.max_prompt_tokens:
            return None
        return (
            f"prompt has {tokens} tokens (media included), more than data.max_prompt_tokens="
            f"{self._data.max_prompt_tokens}",
            "Shorten it or raise data.max_prompt_tokens",
        )

    def _encode(self, row: dict[str, Any]) -> EncodedPrompt:
        media = [self._clips[m] for m in row["media_ids"]]
        return self._cache.get(row["prompt_id"], lambda: encode_prompt(self._encoder, row["messages"], media))

    def take(self, cursor: int, n: int) -> tuple[pa.Table, pa.Table, pa.Table, TakeStats]:
        """Prompts `cursor` … `cursor + n − 1` of an endless sequence of seeded shuffles of all prompts.

        Returns ENCODED_PROMPT in that order, and MEDIA and FEATURES with each clip once.
        """
        start, misses = time.monotonic(), self._cache.misses
        rows = [self._rows[self._index(cursor + i)] for i in range(n)]
        return self._serve(rows, start, misses)

    def slice(self, first: int, last: int) -> tuple[pa.Table, pa.Table, pa.Table, TakeStats]:
        """Prompts first … last − 1 in file order, for evaluation."""
        return self._serve(self._rows[first:last], time.monotonic(), self._cache.misses)

    def _index(self, position: int) -> int:
        epoch, offset = divmod(position, len(self._rows))
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = np.random.default_rng((self._seed, epoch)).permutation(len(self._rows))
        return int(self._order[offset])

    def _serve(
        self, rows: list[dict[str, Any]], start: float, misses: int
    ) -> tuple[pa.Table, pa.Table, pa.Table, TakeStats]:
        encoded: list[dict[str, Any]] = []
        features: dict[str, Features] = {}
        for row in rows:
            prompt = self._encode(row)
            features |= prompt.features
            encoded.append(
                {
                    "prompt_id": row["prompt_id"],
                    "task": row["task"],
                    "modality": row["modality"],
                    "prompt_token_ids": prompt.token_ids,
                    "collapsed_token_ids": prompt.collapsed_token_ids,
                    "facts_token_ids": encode_facts(self._encoder, facts_of(row["extras"], self._data.facts_column)),
                    "media_ids": row["media_ids"],
                }
            )
        clips = [self._clips[media_id] for media_id in features]
        media = pa.Table.from_pylist(
            [{"media_id": c.media_id, "kind": c.kind, "mime": self._mimes[c.media_id], "data": c.data} for c in clips],
            schema=MEDIA,
        )
        table = features_table(features)
        stats = TakeStats(
            seconds=time.monotonic() - start,
            media_bytes=sum(len(c.data) for c in clips) + feature_bytes(table),
            processor_calls=self._cache.misses - misses,
        )
        return pa.Table.from_pylist(encoded, schema=ENCODED_PROMPT), media, table, stats
