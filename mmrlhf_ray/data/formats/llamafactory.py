"""LLaMA-Factory's sharegpt rows: `conversations`, `chosen` and `rejected`, `kto_tag`, tags in texts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmrlhf_ray.data.errors import RowError
from mmrlhf_ray.data.formats.base import (
    Embedding,
    Kind,
    MediaNames,
    Row,
    label_for,
    label_of,
    plain_row,
    raw_row,
    refuse,
    require,
)
from mmrlhf_ray.data.formats.chat import (
    lead_with_media,
    media_lists,
    refuse_tags,
    split_answer,
    split_tags,
    written_media,
)
from mmrlhf_ray.data.formats.sharegpt import turn, turn_text, turns_of, written_turns

_LISTS = ("images", "audios", "videos")
_KEYS = ("conversations", "system", "chosen", "rejected", "kto_tag", *_LISTS)


@dataclass(frozen=True)
class LlamaFactory:
    name: str = "llamafactory"
    reads: frozenset[Kind] = frozenset({"PROMPT", "DEMONSTRATION", "PREFERENCE"})
    writes: frozenset[Kind] = frozenset({"PROMPT", "DEMONSTRATION", "PREFERENCE"})
    embeds: Embedding = "path"
    parquet: bool = True
    objects: frozenset[str] = frozenset()

    keys: frozenset[str] = frozenset(_KEYS)
    one_or_several: frozenset[str] = frozenset()

    def matches(self, row: Row) -> bool:
        return "conversations" in row and not (row.keys() & {"image", "video"})

    def read(self, row: Row, kind: Kind) -> dict[str, Any]:
        asked, answer = split_answer(turns_of(row), "conversations")
        answers = _answers(row, answer, kind)
        lists = media_lists(row)
        messages = lead_with_media(split_tags(asked, answer, answers.get("chosen"), answers.get("rejected")), lists)
        return raw_row(row, _KEYS, messages=messages, **lists, **answers)

    def write(self, record: Row, kind: Kind, media_names: MediaNames) -> dict[str, Any]:
        turns, system = written_turns(record, self.name)
        answer, others = _WRITERS[kind](record)
        for text in (answer, *(value["value"] for value in others.values() if isinstance(value, dict))):
            refuse_tags(text or "", self.name)
        final = [] if answer is None else [turn("gpt", answer)]
        lists = written_media(record, media_names)
        return {"conversations": [*turns, *final], **system, **others, **lists, **plain_row(record, _KEYS)}


def _answers(row: Row, answer: str | None, kind: Kind) -> dict[str, Any]:
    pair = {key: turn_text(row[key], key) for key in ("chosen", "rejected") if row.get(key) is not None}
    if pair and answer is not None:
        raise RowError("conversations ends with an answer next to chosen and rejected", "end it with the question")
    if kind == "PREFERENCE":
        require(row, ("chosen", "rejected"), "llamafactory")
    if kind == "DEMONSTRATION" and answer is None:
        raise RowError("conversations does not end with the assistant", "end it with a turn from gpt")
    return pair | {"response": answer, "feedback": label_of(row, "kto_tag")}


def _preference(record: Row) -> tuple[None, dict[str, Any]]:
    refuse(record["margin"] != 0, f"margin {record['margin']:g}", "llamafactory")
    return None, {key: turn("gpt", record[key]) for key in ("chosen", "rejected")}


_WRITERS: Mapping[Kind, Any] = {
    "PROMPT": lambda record: (None, {}),
    "DEMONSTRATION": lambda record: (record["response"], label_for(record, "kto_tag", "llamafactory")),
    "PREFERENCE": _preference,
}
