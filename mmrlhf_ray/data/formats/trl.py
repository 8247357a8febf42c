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
    TAG,
    URL_PARTS,
    Message,
    answer_text,
    chat_of,
    common_prompt,
    lead_with_media,
    media_lists,
    part_types,
    parts_of,
    record_chat,
    refuse_media_in_answers,
    split_answer,
    text_message,
    written_media,
)
from mmrlhf_ray.data.validate import MEDIA_LISTS

_KEYS = ("prompt", "messages", "completion", "chosen", "rejected", *MEDIA_LISTS, *MEDIA_LISTS.values())
_JUDGED = ("label", "margin")
_OURS = {"response", "responses"}
"""Answers next to a prompt in the project's own rows."""
_ANSWERS = ("completion", "chosen", "rejected")
_ELSEWHERE = {
    "data_source",
    "completions",
    "response_1",
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
    keys: frozenset[str] = frozenset((*_KEYS, *_JUDGED))
    one_or_several: frozenset[str] = frozenset()

    def matches(self, row: Row) -> bool:
        pair = isinstance(row.get("chosen"), list)
        told = isinstance(row.get("messages"), list) and not has_label(row)
        answered = isinstance(row.get("prompt"), str) and "completion" not in row and row.keys() & _OURS
        if not (told or pair or "prompt" in row) or answered or ("question" in row and not pair):
            return False
        texts = [part_types(row.get(key)) for key in ("messages", "prompt", "chosen")]
        return not (row.keys() & _ELSEWHERE) and not set().union(*texts) & URL_PARTS.keys()

    def read(self, row: Row, kind: Kind) -> dict[str, Any]:
        asked, answers = _parts(row, kind)
        for key in {"DEMONSTRATION": ("response",), "PREFERENCE": ("chosen", "rejected")}.get(kind, ()):
            if key not in answers:
                theirs = "completion" if key == "response" else key
                raise RowError(f"{theirs} is missing", f"add {theirs}, or read the rows as another kind of record")
        lists = media_lists(row, MEDIA_LISTS)
        used = (*_KEYS, *(key for key in _JUDGED if _judged(row, key)))
        texts = [answers.get(key) for key in ("response", "chosen", "rejected")]
        if isinstance(asked, str):
            refuse_media_in_answers({} if TAG.search(asked) else lists, *texts)
            return raw_row(row, used, prompt=asked, **lists, **answers)
        return raw_row(row, used, messages=lead_with_media(asked, lists, *texts), **lists, **answers)

    def write(self, record: Row, kind: Kind, media_names: MediaNames) -> dict[str, Any]:
        # Content is always a list of parts: a column of Parquet cannot hold strings and lists.
        prompt = [{"role": m["role"], "content": parts_of(m)} for m in record_chat(record)]
        return {
            "prompt": prompt,
            **_WRITERS[kind](record),
            **written_media(record, media_names),
            **plain_row(record, (*_KEYS, *_JUDGED)),
        }


def _parts(row: Row, kind: Kind) -> tuple[str | list[Message], dict[str, Any]]:
    """(what was asked, the answers under the keys of raw rows)."""
    answers: dict[str, Any] = {}
    asked: str | list[Message]
    if _has_conversations(row):
        asked, answers = _two_conversations(row, kind)
    elif "messages" in row:
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
        require(row, ("prompt", "completion"), "trl")
    if _judged(row, "label"):
        answers["feedback"] = label_of(row, "label")
    if _judged(row, "margin"):
        answers["margin"] = row["margin"]
    return asked, answers


def _has_conversations(row: Row) -> bool:
    """Whether `chosen` and `rejected` repeat the prompt, as they must where no `prompt` says it to them."""
    chosen, prompt = row.get("chosen"), row.get("prompt")
    return isinstance(chosen, list) and (len(chosen) > 1 or not isinstance(prompt, str | list))


def _two_conversations(row: Row, kind: Kind) -> tuple[list[Message], dict[str, Any]]:
    """UltraFeedback as Hugging Face binarized it also has the question in `prompt`, and `chosen` in `messages`."""
    require(row, ("chosen", "rejected"), "trl")
    prompt = row.get("prompt")
    if isinstance(prompt, list) and row["chosen"][: len(prompt)] != prompt:
        raise RowError(f"chosen is {len(row['chosen'])} messages", "give one assistant message, or the prompt and it")
    asked, chosen, rejected = common_prompt(row["chosen"], row["rejected"])
    said = [_plain(message) for message in asked]
    if isinstance(prompt, str) and prompt.strip() not in said:
        raise RowError("prompt is none of the messages of chosen", "keep one of the two")
    answers = {"chosen": chosen, "rejected": rejected}
    if "messages" in row:
        messages = chat_of(row["messages"], "messages")
        if messages not in (chat_of(row["chosen"], "chosen"), asked):
            raise RowError("messages differ from chosen", "keep one of the two")
        answers |= {"response": chosen} if kind == "DEMONSTRATION" and messages != asked else {}
    return asked, answers


def _plain(message: Message) -> str:
    """The text of a message; media left out."""
    content = message.get("content")
    parts = content if isinstance(content, list) else [{"text": content}]
    return "".join(str(part.get("text") or "") for part in parts if isinstance(part, Mapping)).strip()


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
