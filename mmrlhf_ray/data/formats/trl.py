"""TRL: conversational and plain prompts, prompt-completion, preferences, unpaired preferences; with `images`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmrlhf_ray.data.errors import RowError
from mmrlhf_ray.data.formats.base import (
    Embedding,
    Kind,
    MediaNames,
    Row,
    has_label,
    label_for,
    label_of,
    plain_row,
    raw_row,
    require,
)
from mmrlhf_ray.data.formats.chat import (
    Message,
    answer_text,
    chat_of,
    common_prompt,
    lead_with_media,
    media_lists,
    parts_of,
    record_chat,
    split_answer,
    text_message,
    written_media,
)

_SINGLE = {"image": "images"}
_LISTS = ("images", "audios", "videos")
_KEYS = ("prompt", "messages", "completion", "chosen", "rejected", "image", *_LISTS)
_JUDGED = ("label", "margin")
_ANSWERS = ("completion", "chosen", "rejected")
_ELSEWHERE = {
    "data_source",
    "completions",
    "response_1",
    "question",
    "conversations",
    "rejected_response",
    "rejected_messages",
}


@dataclass(frozen=True)
class Trl:
    name: str = "trl"
    reads: frozenset[Kind] = frozenset({"PROMPT", "DEMONSTRATION", "PREFERENCE"})
    writes: frozenset[Kind] = frozenset({"PROMPT", "DEMONSTRATION", "PREFERENCE"})
    embeds: Embedding = "feature"
    parquet: bool = True
    objects: frozenset[str] = frozenset()

    def matches(self, row: Row) -> bool:
        told = isinstance(row.get("messages"), list) and not has_label(row)
        asked = told or "prompt" in row or isinstance(row.get("chosen"), list)
        return asked and not (row.keys() & _ELSEWHERE)

    def read(self, row: Row, kind: Kind) -> dict[str, Any]:
        asked, answers = _parts(row)
        for key in {"DEMONSTRATION": ("response",), "PREFERENCE": ("chosen", "rejected")}.get(kind, ()):
            if key not in answers:
                theirs = "completion" if key == "response" else key
                raise RowError(f"{theirs} is missing", f"add {theirs}, or read the rows as another kind of record")
        lists = media_lists(row, _SINGLE)
        used = (*_KEYS, *(key for key in _JUDGED if _judged(row, key)))
        if isinstance(asked, str):
            return raw_row(row, used, prompt=asked, **lists, **answers)
        return raw_row(row, used, messages=lead_with_media(asked, lists), **lists, **answers)

    def write(self, record: Row, kind: Kind, media_names: MediaNames) -> dict[str, Any]:
        # Content is always a list of parts: a column of Parquet cannot hold strings and lists.
        prompt = [{"role": m["role"], "content": parts_of(m)} for m in record_chat(record)]
        return {
            "prompt": prompt,
            **_WRITERS[kind](record),
            **written_media(record, media_names),
            **plain_row(record, (*_KEYS, *_JUDGED)),
        }


def _parts(row: Row) -> tuple[str | list[Message], dict[str, Any]]:
    """(what was asked, the answers under the keys of raw rows)."""
    answers: dict[str, Any] = {}
    asked: str | list[Message]
    if "messages" in row:
        beside = [key for key in ("prompt", *_ANSWERS) if row.get(key) is not None]
        if beside:
            raise RowError(f"messages and {beside[0]} are both given", "keep one of the two")
        messages = chat_of(row["messages"], "messages")
        asked, response = split_answer(messages, "messages")
        answers = {} if response is None else {"response": response}
    elif "prompt" in row:
        prompt = row["prompt"]
        asked = prompt if isinstance(prompt, str) else chat_of(prompt, "prompt")
        if "completion" in row:
            answers["response"] = answer_text(row["completion"], "completion")
        answers |= {key: answer_text(row[key], key) for key in ("chosen", "rejected") if row.get(key) is not None}
    else:
        require(row, ("chosen", "rejected"), "trl")
        asked, answers["chosen"], answers["rejected"] = common_prompt(row["chosen"], row["rejected"])
    if _judged(row, "label"):
        answers["feedback"] = label_of(row, "label")
    if _judged(row, "margin"):
        answers["margin"] = row["margin"]
    return asked, answers


def _judged(row: Row, key: str) -> bool:
    """Whether `label` or `margin` is about an answer of the row; elsewhere it is a column like any other."""
    return row.get(key) is not None and {"label": "completion", "margin": "chosen"}[key] in row


def _preference(record: Row) -> dict[str, Any]:
    pair = {key: [text_message("assistant", record[key])] for key in ("chosen", "rejected")}
    return pair | ({"margin": record["margin"]} if record["margin"] else {})


_WRITERS: Mapping[Kind, Any] = {
    "PROMPT": lambda record: {},
    "DEMONSTRATION": lambda record: {
        "completion": [text_message("assistant", record["response"])],
        **label_for(record, "label", "trl"),
    },
    "PREFERENCE": _preference,
}
