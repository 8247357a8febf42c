"""LLaVA: `conversations` with <image>, and one `image` or `video` next to them (or a list of images)."""

from dataclasses import dataclass
from typing import Any

from mmrlhf_ray.data.errors import RowError
from mmrlhf_ray.data.formats.base import (
    Embedding,
    Kind,
    MediaNames,
    Row,
    plain_row,
    raw_row,
    refuse,
)
from mmrlhf_ray.data.formats.chat import (
    Message,
    lead_with_media,
    media_lists,
    refuse_tags,
    split_answer,
    split_tags,
    written_media,
)
from mmrlhf_ray.data.formats.sharegpt import turn, turns_of, written_turns

_SINGLE = {"image": "images", "video": "videos"}
_KEYS = ("conversations", "system", *_SINGLE)


@dataclass(frozen=True)
class Llava:
    name: str = "llava"
    reads: frozenset[Kind] = frozenset({"PROMPT", "DEMONSTRATION"})
    writes: frozenset[Kind] = frozenset({"PROMPT", "DEMONSTRATION"})
    embeds: Embedding = "path"
    parquet: bool = True
    objects: frozenset[str] = frozenset()

    keys: frozenset[str] = frozenset(_KEYS)
    one_or_several: frozenset[str] = frozenset(_SINGLE)

    def matches(self, row: Row) -> bool:
        others = {"images", "videos", "audios", "chosen", "rejected", "kto_tag"}
        return "conversations" in row and not (row.keys() & others)

    def read(self, row: Row, kind: Kind) -> dict[str, Any]:
        asked, answer = split_answer(turns_of(row), "conversations")
        if kind == "DEMONSTRATION" and answer is None:
            raise RowError("conversations does not end with the assistant", "end it with a turn from gpt")
        lists = media_lists({key: row[key] for key in _SINGLE if key in row}, _SINGLE)
        if set(lists) == {"videos"}:
            asked = [_retag(message, "<image>", "<video>") for message in asked]
        messages = lead_with_media(split_tags(asked, answer), lists)
        return raw_row(row, _KEYS, messages=messages, response=answer, **lists)

    def write(self, record: Row, kind: Kind, media_names: MediaNames) -> dict[str, Any]:
        lists = written_media(record, media_names)
        refuse("audios" in lists, "audio", self.name)
        refuse(len(lists) > 1, "images and videos in one row", self.name)
        refuse(len(lists.get("videos", ())) > 1, "several videos in one row", self.name)
        refuse(record.get("feedback", 0.0) != 0, f"feedback {record.get('feedback', 0.0):g}", self.name)
        turns, system = written_turns(record, self.name)
        if kind == "DEMONSTRATION":
            refuse_tags(record["response"], self.name)
            turns.append(turn("gpt", record["response"]))
        turns = [turn(t["from"], t["value"].replace("<video>", "<image>")) for t in turns]
        media = {name: _one_or_all(lists[key]) for name, key in _SINGLE.items() if key in lists}
        return {"conversations": turns, **system, **media, **plain_row(record, (*_KEYS, "images", "videos"))}


def _retag(message: Message, old: str, new: str) -> Message:
    """LLaVA has one tag, which stands for the clip where the row has a video."""
    return message | {"content": message["content"].replace(old, new)} if message["role"] == "user" else message


def _one_or_all(items: list[Any]) -> Any:
    return items[0] if len(items) == 1 else items
