"""Conversations as the formats have them to those of raw rows, and back."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mmrlhf_ray.data.errors import RowError
from mmrlhf_ray.data.formats.base import MediaNames, Row, refuse
from mmrlhf_ray.data.validate import MEDIA_LISTS
from mmrlhf_ray.schema.tables import MEDIA_KINDS

Message = dict[str, Any]

URL_PARTS: Mapping[str, str] = {
    "image_url": "image",
    "audio_url": "audio",
    "video_url": "video",
    "input_audio": "audio",
}
"""Types of content parts that only OpenAI's messages have → the media that they show."""

_ANSWERS_ARE_TEXT = "answers are text: leave such rows out, or put media into user messages"

_OF_A_TURN = ("role", "content")
_NOTHING: tuple[Any, ...] = ("", [], {})

TAG = re.compile(r"<(image|audio|video)>")
"""Where a text shows media, in the formats that have no content parts."""


# Reading


def chat_of(value: Any, key: str) -> list[Message]:
    """A list of messages without the keys that say nothing, as data-set libraries fill them in. Raises RowError."""
    if not isinstance(value, list) or not value:
        raise RowError(f"{key} is {_came(value)}, expected a non-empty list of messages", f"give messages in {key}")
    messages = []
    for index, message in enumerate(value):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise RowError(f"{key}[{index}] is not a message with a role", 'write {"role": …, "content": …}')
        present = {key: item for key, item in _present(message).items() if key in _OF_A_TURN or item not in _NOTHING}
        if isinstance(present.get("content"), list):
            present["content"] = [_present(p) if isinstance(p, Mapping) else p for p in present["content"]]
        messages.append(present)
    return messages


def split_answer(messages: Sequence[Message], key: str) -> tuple[list[Message], str | None]:
    """(what was asked, the final assistant turn's text); None where the last turn is not the assistant's."""
    last = messages[-1]
    if last["role"] != "assistant":
        return list(messages), None
    if len(messages) == 1:
        raise RowError(f"{key} has an answer only", f"put what was asked before it in {key}")
    return list(messages[:-1]), _said(last, f"{key}[{len(messages) - 1}]")


def answer_text(value: Any, key: str) -> str:
    """Text of an answer: a string, an assistant message, or a list of one. Raises RowError."""
    if isinstance(value, str):
        return value
    turns = [value] if isinstance(value, Mapping) else value
    if not isinstance(turns, list) or len(turns) != 1:
        came = f"{len(turns)} messages" if isinstance(turns, list) else _came(turns)
        raise RowError(f"{key} is {came}, expected text or one assistant message", "keep turns before it in the prompt")
    (message,) = chat_of(turns, key)
    if message["role"] != "assistant":
        raise RowError(f"{key}[0].role is {message['role']!r}, expected assistant", f"give the answer in {key}")
    return _said(message, f"{key}[0]")


def _said(answer: Message, where: str) -> str:
    """Text of the assistant's turn that is an answer. Raises RowError where the turn has more than that."""
    more = next((key for key in answer if key not in _OF_A_TURN), None)
    if more is not None:
        raise RowError(f"{where} has {more}, which is no text of the answer", f"leave out such rows, or {more}")
    return content_text(answer.get("content"), f"{where}.content")


def content_text(content: Any, where: str) -> str:
    """Text of an answer's content: a string or text parts. Raises RowError."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise RowError(f"{where} is {_came(content)}, expected text", "give the answer as text")
    texts = []
    for number, part in enumerate(content):
        kind = part.get("type") if isinstance(part, Mapping) else None
        text = part.get("text") if isinstance(part, Mapping) and kind == "text" else None
        if kind == "text" and not isinstance(text, str):
            came = ", ".join(map(str, part))
            raise RowError(f"{where}[{number}] has the keys {came}", 'write {"type": "text", "text": …}')
        if not isinstance(text, str):
            came = f"{kind}, " if isinstance(kind, str) else ""
            raise RowError(f"{where} has something else than text: {came}answers are text", "leave such rows out")
        texts.append(text)
    return "".join(texts)


def common_prompt(chosen: Any, rejected: Any) -> tuple[list[Message], str, str]:
    """(prompt, chosen, rejected) of two complete conversations that differ in their last turn only. Raises RowError."""
    asked, text = split_answer(chat_of(chosen, "chosen"), "chosen")
    other, other_text = split_answer(chat_of(rejected, "rejected"), "rejected")
    if text is None or other_text is None:
        raise RowError("chosen or rejected does not end with the assistant", "end both with the answer")
    if asked != other:
        raise RowError("chosen and rejected differ before their last turn", "give both the same prompt")
    return asked, text, other_text


def media_lists(row: Row, single: Mapping[str, str] | None = None) -> dict[str, list[Any]]:
    """images, audios, videos of a row, as far as it has them. `single`: keys that hold one reference → their list."""
    lists: dict[str, list[Any]] = {}
    for key in MEDIA_LISTS.values():
        value = row.get(key)
        if value is not None and not isinstance(value, list):
            raise RowError(f"{key} is {_came(value)}, expected a list", f'write "{key}": ["…", …]')
        if value:
            lists[key] = list(value)
    for name, key in (single or {}).items():
        value = row.get(name)
        if value is None or value == "":
            continue
        if key in lists:
            raise RowError(f"{name} and {key} are both given", "keep one of the two")
        lists[key] = list(value) if isinstance(value, list) else [value]
    return lists


def split_tags(messages: Sequence[Message], *answers: str | None) -> list[Message]:
    """User texts with <image>, <audio>, <video> as content parts. Raises RowError for a tag anywhere else."""
    spoken = [m.get("content") for m in messages if m["role"] != "user"]
    for text in (*spoken, *answers):
        found = TAG.search(text) if isinstance(text, str) else None
        if found:
            raise RowError(f"{found.group()} stands outside of user messages", _ANSWERS_ARE_TEXT)
    return [
        m | {"content": _tag_parts(m["content"])} if m["role"] == "user" and isinstance(m.get("content"), str) else m
        for m in messages
    ]


def lead_with_media(
    messages: Sequence[Message], lists: Mapping[str, Sequence[Any]], *answers: str | None
) -> list[Message]:
    """Media that no message shows come before the text of the first user message, unless tags in it may mean them.

    Raises RowError where a tag in one of the answers may mean them.
    """
    shown = any(is_media(p) for m in messages if isinstance(m.get("content"), list) for p in m["content"])
    first = next((i for i, m in enumerate(messages) if m["role"] == "user"), None)
    if shown or not lists or first is None:
        return list(messages)
    content = messages[first].get("content")
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(parts, list) or any(TAG.search(str(m.get("content"))) for m in messages):
        return list(messages)
    refuse_media_in_answers(lists, *answers)
    led = [{"type": kind} for kind, key in MEDIA_LISTS.items() for _ in lists.get(key, ())]
    return [m | {"content": [*led, *parts]} if i == first else m for i, m in enumerate(messages)]


def refuse_media_in_answers(lists: Mapping[str, Sequence[Any]], *answers: str | None) -> None:
    """Raise RowError where media that no question shows may be those of a tag in an answer."""
    found = next((tag for text in answers if text and (tag := TAG.search(text))), None)
    if found and any(lists.get(key) for key in MEDIA_LISTS.values()):
        raise RowError(f"an answer shows {found.group()}", _ANSWERS_ARE_TEXT)


def part_types(messages: Any) -> set[str]:
    """The types of the content parts of what may be a list of messages."""
    turns = [m for m in messages if isinstance(m, Mapping)] if isinstance(messages, list) else []
    contents = [content for m in turns if isinstance(content := m.get("content"), list)]
    types = [part.get("type") for content in contents for part in content if isinstance(part, Mapping)]
    return {kind for kind in types if isinstance(kind, str)}


def _tag_parts(text: str) -> str | list[dict[str, str]]:
    pieces = TAG.split(text)  # text, kind, text, kind, …, text
    if len(pieces) == 1:
        return text
    parts = [{"type": piece} if i % 2 else {"type": "text", "text": piece} for i, piece in enumerate(pieces)]
    return [part for part in parts if part != {"type": "text", "text": ""}]


def is_media(part: Any) -> bool:
    """Whether a content part of a message shows media."""
    return isinstance(part, Mapping) and part.get("type") in MEDIA_KINDS


def _present(value: Mapping[str, Any]) -> dict[str, Any]:
    return {key: item for key, item in value.items() if item is not None}


def _came(value: Any) -> str:
    return "missing" if value is None else "empty" if value in ([], {}, "") else f"a {type(value).__name__}"


# Writing


def record_chat(record: Row) -> list[Message]:
    """Messages of a record."""
    messages: list[Message] = json.loads(record["messages"])
    return messages


def parts_of(message: Message) -> list[dict[str, Any]]:
    """Content parts of a record's message."""
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def written_media(record: Row, media_names: MediaNames) -> dict[str, list[Any]]:
    """The lists written for a record's media, by list and in order; only lists that are not empty."""
    kinds = [part["type"] for m in record_chat(record) for part in parts_of(m) if part["type"] != "text"]
    lists: dict[str, list[Any]] = {}
    for kind, media_id in zip(kinds, record["media_ids"], strict=True):
        lists.setdefault(MEDIA_LISTS[kind], []).append(media_names[media_id])
    return lists


def tagged_text(message: Message, name: str) -> str:
    """A message as one text with <image>, <audio>, <video>. Raises RowError where its own text has such a tag."""
    pieces = []
    for part in parts_of(message):
        if part["type"] == "text":
            refuse_tags(part["text"], name)
        pieces.append(part["text"] if part["type"] == "text" else f"<{part['type']}>")
    return "".join(pieces)


def refuse_tags(text: str, name: str) -> None:
    """Raise RowError for text that would be read as media."""
    found = TAG.search(text)
    refuse(found is not None, f"the text {found.group() if found else ''}, which stands for media in it", name)


def one_question(record: Row, name: str) -> str:
    """The question of a record of one turn, with its media before the text. Raises RowError for any other."""
    messages = record_chat(record)
    refuse(len(messages) != 1, f"a conversation of {len(messages)} messages, only one question", name)
    parts = parts_of(messages[0])
    texts = [part["text"] for part in parts if part["type"] == "text"]
    first_text = next((i for i, part in enumerate(parts) if part["type"] == "text"), len(parts))
    refuse(any(is_media(part) for part in parts[first_text:]), "media after text", name)
    # Without a tag, media of several kinds are taken in this order.
    kinds = [MEDIA_KINDS.index(part["type"]) for part in parts[:first_text]]
    refuse(kinds != sorted(kinds), f"media in another order than {', '.join(MEDIA_KINDS)}", name)
    refuse(not texts, "a question without text", name)
    question = "".join(texts)
    refuse_tags(question, name)
    return question


def text_message(role: str, text: str) -> Message:
    """A message of content parts, one text."""
    return {"role": role, "content": [{"type": "text", "text": text}]}
