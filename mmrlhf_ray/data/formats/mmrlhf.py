"""The project's own rows, as docs/data.md has them."""

import json
from dataclasses import dataclass
from typing import Any

from mmrlhf_ray.data.formats.base import KINDS, Embedding, Kind, MediaNames, Row
from mmrlhf_ray.data.formats.chat import record_chat, written_media

_ANSWERS: dict[Kind, tuple[str, ...]] = {
    "PROMPT": (),
    "DEMONSTRATION": ("response", "feedback"),
    "PREFERENCE": ("chosen", "rejected", "margin"),
    "RANKING": ("responses", "ranks", "aspects"),
}

_ELSEWHERE = {
    "completion",
    "completions",
    "response_1",
    "data_source",
    "image",
    "audio_path",
    "video_path",
    "rejected_response",
    "rejected_messages",
}
"""Keys that rows of other formats have besides prompt or messages."""


@dataclass(frozen=True)
class Mmrlhf:
    name: str = "mmrlhf"
    reads: frozenset[Kind] = frozenset(KINDS)
    writes: frozenset[Kind] = frozenset(KINDS)
    embeds: Embedding = "path"
    parquet: bool = False
    objects: frozenset[str] = frozenset()

    def matches(self, row: Row) -> bool:
        asked = "messages" in row or ("prompt" in row and not isinstance(row["prompt"], list))
        return asked and not (row.keys() & _ELSEWHERE)

    def read(self, row: Row, kind: Kind) -> dict[str, Any]:
        return dict(row)

    def write(self, record: Row, kind: Kind, media_names: MediaNames) -> dict[str, Any]:
        row: dict[str, Any] = {
            "prompt_id": record["prompt_id"],
            "messages": record_chat(record),
            **written_media(record, media_names),
            "task": record["task"],
            "extras": json.loads(record["extras"]),
            **{key: record[key] for key in _ANSWERS[kind]},
        }
        if kind == "RANKING":
            row["aspects"] = json.loads(record["aspects"])
        return row
