"""The project's own rows, as docs/data.md has them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmrlhf_ray.data.errors import RowError
from mmrlhf_ray.data.formats.base import KINDS, Embedding, Kind, MediaNames, Row, has_label
from mmrlhf_ray.data.formats.chat import (
    TAG,
    URL_PARTS,
    media_lists,
    part_types,
    record_chat,
    refuse_media_in_answers,
    written_media,
)
from mmrlhf_ray.data.validate import MEDIA_LISTS

_ANSWERS: dict[Kind, tuple[str, ...]] = {
    "PROMPT": (),
    "DEMONSTRATION": ("response", "feedback"),
    "PREFERENCE": ("chosen", "rejected", "margin"),
    "RANKING": ("responses", "ranks", "aspects"),
}

_ALL_ANSWERS = {key for keys in _ANSWERS.values() for key in keys}
_ELSEWHERE = {
    "completion",
    "completions",
    "response_1",
    "data_source",
    "rejected_response",
    "rejected_messages",
}
"""Keys that rows of other formats have besides prompt or messages."""


def _ends_with_answer(messages: Any) -> bool:
    last = messages[-1] if isinstance(messages, list) and messages else None
    return isinstance(last, Mapping) and last.get("role") == "assistant"


@dataclass(frozen=True)
class Mmrlhf:
    name: str = "mmrlhf"
    reads: frozenset[Kind] = frozenset(KINDS)
    writes: frozenset[Kind] = frozenset(KINDS)
    embeds: Embedding = "path"
    parquet: bool = False
    objects: frozenset[str] = frozenset()
    keys: frozenset[str] = frozenset(("prompt", "messages", *MEDIA_LISTS, *MEDIA_LISTS.values(), *_ALL_ANSWERS))
    one_or_several: frozenset[str] = frozenset()

    def matches(self, row: Row) -> bool:
        messages, prompt = row.get("messages"), row.get("prompt")
        if row.keys() & _ELSEWHERE or isinstance(row.get("chosen"), list | Mapping):
            return False
        if messages is None:
            return "prompt" in row and not isinstance(prompt, list)
        if part_types(messages) & URL_PARTS.keys():
            return False
        return not _ends_with_answer(messages) or bool(row.keys() & {"response", "chosen", "rejected", "responses"})

    def read(self, row: Row, kind: Kind) -> dict[str, Any]:
        if "response" in row and "feedback" not in row and has_label(row):
            raise RowError(f"label is {row['label']!r} next to response", "write feedback, 1 liked or -1, in its place")
        raw = dict(row)
        if raw.keys() & MEDIA_LISTS.keys():
            raw = {key: value for key, value in row.items() if key not in MEDIA_LISTS} | media_lists(row, MEDIA_LISTS)
        if isinstance(raw.get("prompt"), str) and not TAG.search(raw["prompt"]):
            several = raw.get("responses")
            answers = [raw.get(key) for key in ("response", "chosen", "rejected")]
            answers += several if isinstance(several, list) else []
            refuse_media_in_answers(raw, *(text for text in answers if isinstance(text, str)))
        return raw

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
