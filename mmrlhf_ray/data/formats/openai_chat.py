"""OpenAI: chat messages with image_url, input_audio and video_url parts; preferences of its fine-tuning service."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mmrlhf_ray.data.errors import RowError
from mmrlhf_ray.data.formats.base import (
    Embedding,
    Kind,
    MediaNames,
    Row,
    has_label,
    plain_row,
    raw_row,
    refuse,
    require,
)
from mmrlhf_ray.data.formats.chat import (
    Message,
    answer_text,
    chat_of,
    part_types,
    parts_of,
    record_chat,
    split_answer,
)
from mmrlhf_ray.data.validate import MEDIA_LISTS
from mmrlhf_ray.schema.tables import MEDIA_KINDS

_KEYS = ("messages", "input", "preferred_output", "non_preferred_output")
_ELSEWHERE = {*MEDIA_LISTS, *MEDIA_LISTS.values(), "rejected_response", "rejected_messages", "chosen", "rejected"}
"""Keys that stand next to `messages` in rows of other formats."""
_URL_PARTS = {"image_url": "image", "audio_url": "audio", "video_url": "video"}
_AUDIO_FORMATS = {"audio/wav": "wav", "audio/mpeg": "mp3"}
_DETAIL = "image_detail"
"""Extra that keeps the `detail` of each image, in order."""


@dataclass(frozen=True)
class OpenAIChat:
    name: str = "openai"
    reads: frozenset[Kind] = frozenset({"PROMPT", "DEMONSTRATION", "PREFERENCE"})
    writes: frozenset[Kind] = frozenset({"PROMPT", "DEMONSTRATION", "PREFERENCE"})
    embeds: Embedding = "data_uri"
    parquet: bool = False
    objects: frozenset[str] = frozenset()

    keys: frozenset[str] = frozenset(_KEYS)
    one_or_several: frozenset[str] = frozenset()

    def matches(self, row: Row) -> bool:
        if isinstance(row.get("input"), Mapping):
            return "messages" in row["input"]
        messages = row.get("messages")
        if not isinstance(messages, list) or row.keys() & _ELSEWHERE or has_label(row):
            return False
        return not part_types(messages) & set(MEDIA_KINDS)

    def read(self, row: Row, kind: Kind) -> dict[str, Any]:
        details: list[Any] = []
        if row.get("input") is not None:
            messages, answers = _preference(row)
        else:
            messages = chat_of(row.get("messages"), "messages")
            messages, response = split_answer(messages, "messages")
            answers = {"response": response}
        missing = {"DEMONSTRATION": "response", "PREFERENCE": "chosen"}.get(kind)
        if missing and answers.get(missing) is None:
            needed = "preferred_output" if missing == "chosen" else "an assistant message at the end of messages"
            raise RowError(f"{needed} is missing", "add it, or read the rows as another kind of record")
        messages = [_read_message(message, f"messages[{i}]", details) for i, message in enumerate(messages)]
        extras = {_DETAIL: details} if any(detail is not None for detail in details) else None
        return raw_row(row, _KEYS, messages=messages, extras=extras, **answers)

    def write(self, record: Row, kind: Kind, media_names: MediaNames) -> dict[str, Any]:
        references = iter([media_names[media_id] for media_id in record["media_ids"]])
        chat = record_chat(record)
        images = sum(part["type"] == "image" for message in chat for part in parts_of(message))
        details, taken = _details(record, images)
        queue = iter(details)
        messages = [
            m | {"content": [_write_part(part, references, queue) for part in m["content"]]}
            if isinstance(m["content"], list)
            else m
            for m in chat
        ]
        refuse(record.get("feedback", 0.0) != 0, f"feedback {record.get('feedback', 0.0):g}", self.name)
        refuse(record.get("margin", 0.0) != 0, f"margin {record.get('margin', 0.0):g}", self.name)
        return _WRITERS[kind](messages, record) | plain_row(record, _KEYS, taken=taken)


def _preference(row: Row) -> tuple[list[Message], dict[str, Any]]:
    require(row, ("input", "preferred_output", "non_preferred_output"), "openai")
    asked = row["input"]
    if not isinstance(asked, Mapping):
        raise RowError(f"input is a {type(asked).__name__}, expected an object", 'write {"messages": […]}')
    if asked.get("tools"):
        raise RowError("input.tools cannot be expressed: the prompt would lack them", "leave such rows out")
    # Without tools there is nothing to call in parallel.
    said = {key for key, value in asked.items() if value is not None} - {"messages", "tools", "parallel_tool_calls"}
    if said or asked.get("messages") is None:
        came = ", ".join(sorted(map(str, said))) or "no messages"
        raise RowError(f"input has {came}, expected messages", "put only messages into input")
    outputs = {"chosen": "preferred_output", "rejected": "non_preferred_output"}
    answers = {key: answer_text(row[theirs], theirs) for key, theirs in outputs.items()}
    return chat_of(asked["messages"], "input.messages"), answers


def _read_message(message: Message, where: str, details: list[Any]) -> Message:
    content = message.get("content")
    if not isinstance(content, list):
        return message
    return message | {"content": [_read_part(part, f"{where}.content[{i}]", details) for i, part in enumerate(content)]}


def _read_part(part: Any, where: str, details: list[Any]) -> Any:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind == "text":
        return part
    if kind == "input_audio":
        audio = part.get(kind)
        if not isinstance(audio, Mapping) or not all(isinstance(audio.get(k), str) for k in ("data", "format")):
            raise RowError(f"{where}.input_audio lacks data or format", 'write {"data": "base64…", "format": "wav"}')
        mimes = {name: mime for mime, name in _AUDIO_FORMATS.items()}
        mime = mimes.get(audio["format"], f"audio/{audio['format']}")
        return {"type": "audio", "audio": f"data:{mime};base64,{audio['data']}"}
    if not isinstance(kind, str) or kind not in _URL_PARTS:
        known = ", ".join(("text", "input_audio", *_URL_PARTS))
        raise RowError(f"{where}.type is {kind!r}, expected one of {known}", "leave such parts out")
    return _read_url(part, where, details)


def _read_url(part: Mapping[str, Any], where: str, details: list[Any]) -> dict[str, Any]:
    key = part["type"]
    about = part.get(key)
    if isinstance(about, str):
        about = {"url": about}
    present = {k: v for k, v in about.items() if v is not None} if isinstance(about, Mapping) else {}
    allowed = {"url", "detail"} if key == "image_url" else {"url"}
    if not isinstance(present.get("url"), str) or not set(present) <= allowed or not set(part) <= {"type", key}:
        raise RowError(f"{where}.{key} is not an address", f'write {{"type": "{key}", "{key}": {{"url": …}}}}')
    if key == "image_url":
        details.append(present.get("detail"))
    return {"type": _URL_PARTS[key], _URL_PARTS[key]: present["url"]}


def _details(record: Row, images: int) -> tuple[list[Any], tuple[str, ...]]:
    """(detail of each image, the extras that hold it)."""
    kept = json.loads(record["extras"]).get(_DETAIL)
    if isinstance(kept, list) and len(kept) == images:
        return kept, (_DETAIL,)
    return [None] * images, ()


def _write_image(reference: str, detail: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": reference} | ({"detail": detail} if detail else {})}


def _write_audio(reference: str) -> dict[str, Any]:
    head, _, data = reference.partition(";base64,")
    form = _AUDIO_FORMATS.get(head.removeprefix("data:"))
    if data and form:
        return {"type": "input_audio", "input_audio": {"data": data, "format": form}}
    return {"type": "audio_url", "audio_url": {"url": reference}}


def _write_part(part: Mapping[str, Any], references: Any, details: Any) -> Mapping[str, Any]:
    writers: dict[str, Callable[[], Mapping[str, Any]]] = {
        "text": lambda: part,
        "image": lambda: _write_image(next(references), next(details)),
        "audio": lambda: _write_audio(next(references)),
        "video": lambda: {"type": "video_url", "video_url": {"url": next(references)}},
    }
    return writers[part["type"]]()


def _answer(text: str) -> Message:
    return {"role": "assistant", "content": text}


_WRITERS: Mapping[Kind, Callable[[list[Message], Row], dict[str, Any]]] = {
    "PROMPT": lambda messages, record: {"messages": messages},
    "DEMONSTRATION": lambda messages, record: {"messages": [*messages, _answer(record["response"])]},
    "PREFERENCE": lambda messages, record: {
        "input": {"messages": messages},
        "preferred_output": [_answer(record["chosen"])],
        "non_preferred_output": [_answer(record["rejected"])],
    },
}
