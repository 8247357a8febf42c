"""Demonstrations and preferences to TRAINING_ROW: the function that Ray Data maps over records."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import ray

from mmrlhf_ray.data.encode import Encoder, RawMedia, encode_facts, encode_prompt, encode_response, load_encoder
from mmrlhf_ray.data.extras import facts_of
from mmrlhf_ray.data.features import features_table, read_features
from mmrlhf_ray.schema import TRAINING_ROW


def features_to_bytes(table: pa.Table) -> bytes:
    """A FEATURES table as an Arrow IPC stream."""
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


class EncodeRecords:
    """Callable on batches of DEMONSTRATION or PREFERENCE rows with a column `row`; `media` refers to MEDIA tables. A row that cannot be encoded comes
    back with its `problem`, so that one bad row does not end the pipeline and all of them can be reported together.
    """

    def __init__(self, model_path: str, media: Sequence[ray.ObjectRef], facts_column: str | None, max_prompt_tokens: int):
        self._encoder: Encoder = load_encoder(model_path)
        tables = [ray.get(reference) for reference in media]
        rows = [row for table in tables for row in table.to_pylist()]
        self._clips = {r["media_id"]: RawMedia(r["media_id"], r["kind"], r["data"]) for r in rows}
        self._facts_column = facts_column
        self._max_prompt_tokens = max_prompt_tokens

    def __call__(self, batch: pa.Table) -> pa.Table:
        return pa.Table.from_pylist([self._row(row) for row in batch.to_pylist()], schema=TRAINING_ROW)

    def _row(self, row: dict[str, Any]) -> dict[str, Any]:
        out = {name: row[name] for name in ("row", "prompt_id", "task", "modality", "media_ids")}
        out |= {"margin": row.get("margin", 0.0), "problem": ""}
        try:
            return out | self._encoded(row)
        except ValueError as error:
            return out | {"context_token_ids": [], "responses_token_ids": [], "features": b"", "problem": str(error)}

    def _encoded(self, row: dict[str, Any]) -> dict[str, Any]:
        prompt = encode_prompt(self._encoder, row["messages"], [self._clips[m] for m in row["media_ids"]])
        if len(prompt.token_ids) > self._max_prompt_tokens:
            raise ValueError(
                f"prompt has {len(prompt.token_ids)} tokens (media included), more than "
                f"data.max_prompt_tokens={self._max_prompt_tokens}"
            )
        facts = encode_facts(self._encoder, facts_of(row["extras"], self._facts_column))
        written = [row[name] for name in ("response", "chosen", "rejected") if name in row]
        return {
            "context_token_ids": facts + prompt.token_ids,
            "responses_token_ids": [encode_response(self._encoder, text) for text in written],
            "features": features_to_bytes(features_table(prompt.features)),
        }
