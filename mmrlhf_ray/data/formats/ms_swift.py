"""ms-swift: `messages` that end with the answer, `rejected_response` or `rejected_messages`, tags in texts."""

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
)
from mmrlhf_ray.data.formats.chat import (
    URL_PARTS,
    Message,
    answer_text,
    chat_of,
    common_prompt,
    lead_with_media,
    media_lists,
    part_types,
    record_chat,
    refuse_tags,
    split_answer,
    split_tags,
    tagged_text,
    written_media,
)
from mmrlhf_ray.data.validate import MEDIA_LISTS

_LISTS = tuple(MEDIA_LISTS.values())
_KEYS = ("messages", "rejected_response", "rejected_messages", *MEDIA_LISTS, *_LISTS)
_JUDGED = ("label", "margin")
_REJECTED = {f"rejected_{key}": key for key in _LISTS}


@dataclass(frozen=True)
class MsSwift:
    name: str = "ms_swift"
    reads: frozenset[Kind] = frozenset({"PROMPT", "DEMONSTRATION", "PREFERENCE"})
    writes: frozenset[Kind] = frozenset({"PROMPT", "DEMONSTRATION", "PREFERENCE"})
    embeds: Embedding = "path"
    parquet: bool = True
    objects: frozenset[str] = frozenset()

    keys: frozenset[str] = frozenset((*_KEYS, *_JUDGED, *_REJECTED))
    one_or_several: frozenset[str] = frozenset()

    def matches(self, row: Row) -> bool:
        messages, others = row.get("messages"), {"chosen", "rejected", "data_source"}
        return isinstance(messages, list) and not (row.keys() & others or part_types(messages) & URL_PARTS.keys())

    def read(self, row: Row, kind: Kind) -> dict[str, Any]:
        messages = chat_of(row.get("messages"), "messages")
        asked, answer = split_answer(messages, "messages")
        answers = _answers(row, messages, answer, kind)
        lists = media_lists(row, MEDIA_LISTS)
        used = _KEYS if answer is None else (*_KEYS, *_JUDGED, *_REJECTED)
        messages = lead_with_media(split_tags(asked, answer, answers.get("rejected")), lists)
        return raw_row(row, used, messages=messages, **lists, **answers)

    def write(self, record: Row, kind: Kind, media_names: MediaNames) -> dict[str, Any]:
        asked = [{"role": m["role"], "content": tagged_text(m, self.name)} for m in record_chat(record)]
        answer, others = _WRITERS[kind](record)
        for text in (answer, others.get("rejected_response")):
            refuse_tags(text or "", self.name)
        final = [] if answer is None else [{"role": "assistant", "content": answer}]
        lists = written_media(record, media_names)
        return {"messages": [*asked, *final], **others, **lists, **plain_row(record, (*_KEYS, *_JUDGED))}


def _answers(row: Row, messages: list[Message], answer: str | None, kind: Kind) -> dict[str, Any]:
    if answer is None and kind != "PROMPT":
        raise RowError("messages does not end with the assistant", "end messages with the answer")
    if answer is None:
        return {}
    rejected = _rejected(row, messages)
    for key, shown in _REJECTED.items():
        if row.get(key) is not None and row[key] != row.get(shown):
            raise RowError(f"{key} differs from {shown}", "compare answers to the same prompt, media included")
    if rejected is None and kind == "PREFERENCE":
        raise RowError("rejected_response is missing", "add it, or rejected_messages")
    answers: dict[str, Any] = {"response" if rejected is None else "chosen": answer, "rejected": rejected}
    if kind == "DEMONSTRATION" and rejected is not None:
        raise RowError("rejected_response stands next to the answer", "read such rows as preferences")
    return answers | {"feedback": label_of(row, "label"), "margin": row.get("margin")}


def _rejected(row: Row, messages: list[Message]) -> str | None:
    if row.get("rejected_response") is not None and row.get("rejected_messages") is not None:
        raise RowError("rejected_response and rejected_messages are both given", "keep one of the two")
    if row.get("rejected_messages") is not None:
        return common_prompt(messages, row["rejected_messages"])[2]
    value = row.get("rejected_response")
    return None if value is None else answer_text(value, "rejected_response")


def _preference(record: Row) -> tuple[str, dict[str, Any]]:
    margin = {"margin": record["margin"]} if record["margin"] else {}
    return record["chosen"], {"rejected_response": record["rejected"], **margin}


_WRITERS: Mapping[Kind, Any] = {
    "PROMPT": lambda record: (None, {}),
    "DEMONSTRATION": lambda record: (record["response"], label_for(record, "label", "ms_swift")),
    "PREFERENCE": _preference,
}
