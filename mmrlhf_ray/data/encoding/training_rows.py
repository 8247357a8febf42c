"""Demonstrations, preferences and rankings to TRAINING_ROW: the function that Ray Data maps over records."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pyarrow as pa
import ray

from mmrlhf_ray.config.data import DataConfig
from mmrlhf_ray.data.encoding.encode import (
    Encoder,
    RawMedia,
    after_start,
    encode_facts,
    encode_response,
    facts_of,
    load_encoder,
)
from mmrlhf_ray.data.encoding.features import features_table, read_features
from mmrlhf_ray.data.encoding.marks import marked_tokens
from mmrlhf_ray.data.encoding.overlong import encode_within
from mmrlhf_ray.data.errors import RowError
from mmrlhf_ray.schema import TRAINING_ROW


def table_to_bytes(table: pa.Table) -> bytes:
    """A table as an Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def features_from_bytes(streams: Sequence[bytes]) -> dict[str, Any]:
    """media_id → features of several rows."""
    merged: dict[str, Any] = {}
    for stream in streams:
        merged |= read_features(pa.ipc.open_stream(stream).read_all())
    return merged


@dataclass(frozen=True)
class EncodeOptions:
    """How records become rows."""

    model_path: str
    facts_column: str | None
    max_prompt_tokens: int
    micro_batch_tokens: int
    """A row goes through the model in one piece, so its responses must fit into one pass together."""
    aspects: tuple[str, ...] = ()
    """Which ratings are read, in the order of `ratings`."""
    sampled_only: bool = False
    """Refuse responses with tokens that are never sampled: a policy gives them probability 0, at infinite loss."""
    data: DataConfig | None = None
    """How media are decoded, and what becomes of prompts that are too long; None = the defaults."""
    allowed: tuple[str, ...] = ()
    """`sampling.allow_tokens`."""
    context_tokens: int | None = None
    """Most tokens of a prompt and a response that the job's models are made for; None = not known."""
    tools: str = "[]"
    """JSON schemas of the tools that prompts describe, as JSON."""

    @property
    def over_long(self) -> str:
        return self.data.over_long if self.data else "reject"


def encode_records(batch: pa.Table, options: EncodeOptions, media: Sequence[ray.ObjectRef]) -> pa.Table:
    """TRAINING_ROW of DEMONSTRATION, PREFERENCE or RANKING rows with a column `row`; `media` refers to one MEDIA table.

    A column `mismatched`, where there is one, holds a response to another prompt: it becomes the row's last response,
    with feedback 0.

    A row that cannot be encoded comes back with its `problem`, so that one bad row does not end the pipeline and all
    of them can be reported together.
    """
    clips = _clips(media[0])
    encoder = _encoder(options.model_path, options.data, options.allowed, options.tools)
    rows = [training_row(row, encoder, clips, options) for row in batch.to_pylist()]
    return pa.Table.from_pylist(rows, schema=TRAINING_ROW)


# A worker process maps many batches; it loads the processor and reads the media once.
@lru_cache(maxsize=1)
def _encoder(model_path: str, data: DataConfig | None, allowed: tuple[str, ...], tools: str) -> Encoder:
    return load_encoder(model_path, data, allowed=allowed, tools=json.loads(tools))


@lru_cache(maxsize=1)
def _clips(media: ray.ObjectRef) -> dict[str, RawMedia]:
    return {r["media_id"]: RawMedia.of(r) for r in ray.get(media).to_pylist()}


def training_row(
    row: dict[str, Any], encoder: Encoder, clips: Mapping[str, RawMedia], options: EncodeOptions
) -> dict[str, Any]:
    """One TRAINING_ROW of a record with its `row` number, as encode_records() makes them."""
    out = {name: row[name] for name in ("row", "prompt_id", "task", "modality", "media_ids")}
    out |= {"margin": row.get("margin", 0.0), "ref_logprobs": [], "problem": ""}
    try:
        return out | _encoded(row, encoder, clips, options) | _judgements(row, options.aspects)
    except ValueError as error:
        return out | dict(NOTHING_ENCODED) | {"problem": error.reason if isinstance(error, RowError) else str(error)}


NOTHING_ENCODED: Mapping[str, Any] = {
    "context_token_ids": [],
    "responses_token_ids": [],
    "feedback": [],
    "ranks": [],
    "ratings": [],
    "marked": [],
    "features": b"",
}
"""Placeholders in a row with a problem, for the columns that could not be made."""


def _encoded(
    row: dict[str, Any], encoder: Encoder, clips: Mapping[str, RawMedia], options: EncodeOptions
) -> dict[str, Any]:
    media = [clips[m] for m in row["media_ids"]]
    prompt = encode_within(encoder, row["messages"], media, options.max_prompt_tokens, options.over_long)
    facts = encode_facts(encoder, facts_of(row["extras"], options.facts_column))
    context = after_start(facts, prompt.token_ids, encoder.special.start)
    responses = [encode_response(encoder, text, what=f"response {n}") for n, text in enumerate(_texts(row))]
    if options.sampled_only:
        _refuse_banned(encoder, responses)
    longest = len(context) + max(map(len, responses))
    if options.context_tokens is not None and longest > options.context_tokens:
        raise ValueError(
            f"prompt and response have {longest} tokens (media included), more than the {options.context_tokens} that "
            "the model is made for"
        )
    needed = len(responses) * longest
    if needed > options.micro_batch_tokens:
        raise ValueError(
            f"the row takes {needed} tokens (prompt, media and responses), more than "
            f"learner.engine.micro_batch_tokens={options.micro_batch_tokens}"
        )
    return {
        "context_token_ids": context,
        "responses_token_ids": responses,
        "marked": marked_tokens(encoder, row, _texts(row), responses),
        "features": table_to_bytes(features_table(prompt.features)),
    }


def _texts(row: dict[str, Any]) -> list[str]:
    own = [row[name] for name in ("response", "chosen", "rejected", "mismatched") if name in row]
    return [*own, *row.get("responses", [])]


def _refuse_banned(encoder: Encoder, responses: Sequence[Sequence[int]]) -> None:
    banned = set(encoder.banned_token_ids)
    for number, response in enumerate(responses):
        found = banned.intersection(response)
        if found:
            token = encoder.tokenizer.convert_ids_to_tokens(min(found))
            raise ValueError(f"response {number} contains the control token {token!r}, which is never sampled")


def _judgements(row: dict[str, Any], aspects: Sequence[str]) -> dict[str, Any]:
    """People's ratings of each response."""
    count = len(_texts(row))
    feedback = [1.0, -1.0] if "chosen" in row else [row.get("feedback", 0.0)]
    return {
        "feedback": feedback + [0.0] * (count - len(feedback)),
        "ranks": row.get("ranks", []),
        "ratings": _ratings(json.loads(row.get("aspects", "{}")), aspects, count),
    }


def _ratings(given: dict[str, list[float | None]], aspects: Sequence[str], count: int) -> list[list[float]]:
    if not aspects:
        return []
    if not set(aspects) & given.keys():
        raise ValueError(f"the row rates {sorted(given) or 'no aspect'}, none of aspects {sorted(aspects)}")
    unrated: list[float | None] = [None] * count
    by_aspect = [given.get(aspect, unrated) for aspect in aspects]
    return [[math.nan if rating is None else rating for rating in of_one] for of_one in zip(*by_aspect, strict=True)]
