"""What a row holds besides the keys of its format: parts of a prompt are used or refused, never left in the extras."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmrlhf_ray.data.errors import RowError
from mmrlhf_ray.data.formats.base import Row, media_kind_of
from mmrlhf_ray.data.formats.chat import Message, is_media
from mmrlhf_ray.data.validate import MEDIA_LISTS, prompt_parts

_MEDIA_NAME = re.compile(
    r"data:(image|audio|video)/"
    r"|.+\.(png|jpe?g|webp|gif|bmp|tiff?|heic|heif|avif|wav|flac|ogg|opus|mp3|m4a|aac|mp4|mov|webm|avi|mkv)"
    r"(\?[^/]*)?$",
    re.IGNORECASE,
)
_GROUNDING = re.compile(r"<(ref-object|bbox)>")
_TEXTS = ("prompt", "messages", "response", "chosen", "rejected")


def with_prompt_parts(row: Row, raw: dict[str, Any], keys: frozenset[str], name: str) -> dict[str, Any]:
    """`raw`, read from `row`, with the row's `system` as its first message, where the format has no such key.

    `keys`: those of the format. Raises RowError for tools, objects that the texts refer to, and media that the
    messages do not show.
    """
    for key in ("tools", "functions"):
        if _offers(row.get(key)):
            raise RowError(f"{key} cannot be expressed: the prompt would lack them", f"leave out the row or {key}")
    if row.get("objects") and any(_GROUNDING.search(str(raw[key])) for key in _TEXTS if key in raw):
        raise RowError("objects cannot be expressed: <ref-object> and <bbox> would be texts", "write them into texts")
    if "media_ids" not in raw:
        _refuse_unshown_media(row, raw, keys, name)
    system = row.get("system")
    if "system" in keys or not isinstance(system, str) or not system or ("messages" in raw) == ("prompt" in raw):
        return raw
    return _with_system(raw, system)


def _offers(tools: Any) -> bool:
    """Whether a list of tools, or its JSON, names any."""
    if isinstance(tools, str):
        try:
            tools = json.loads(tools) if tools.strip() else None
        except (ValueError, RecursionError):
            return True
    return bool(tools)


def _with_system(raw: dict[str, Any], system: str) -> dict[str, Any]:
    messages = raw.get("messages")
    if messages is None:
        messages = [{"role": "user", "content": prompt_parts(raw)}]
    if not isinstance(messages, list):
        raise RowError("system stands next to messages that are JSON text", "put the system message into messages")
    if messages and isinstance(messages[0], Mapping) and messages[0].get("role") == "system":
        raise RowError("system and a system message are both given", "keep one of the two")
    others = {key: value for key, value in raw.items() if key not in ("prompt", "messages", "system")}
    if "system" not in raw:
        others["extras"] = {key: value for key, value in raw["extras"].items() if key != "system"}
        others = {key: value for key, value in others.items() if key != "extras" or value}
    return {"messages": [{"role": "system", "content": system}, *messages], **others}


def _refuse_unshown_media(row: Row, raw: Mapping[str, Any], keys: frozenset[str], name: str) -> None:
    for key, value in row.items():
        kind = media_kind_of(key)
        if kind is None or key in keys or not _names_media(value, key in (kind, MEDIA_LISTS[kind])):
            continue
        if not raw.get(MEDIA_LISTS[kind]) and kind not in _shown(raw):
            raise RowError(
                f"{key} names media that {name} rows do not show",
                f"name them in {_own_key(kind, keys)}, or keep {key} inside extras",
            )


def _own_key(kind: str, keys: frozenset[str]) -> str:
    """The key by which rows of a format name media of a kind."""
    own = sorted(key for key in keys if media_kind_of(key) == kind)
    return own[-1] if own else MEDIA_LISTS[kind]


def _names_media(value: Any, certain: bool) -> bool:
    """Whether a value stands for media: `certain` where its key can mean nothing else."""
    if isinstance(value, str):
        return bool(value) and (certain or _MEDIA_NAME.match(value) is not None)
    if isinstance(value, Mapping):
        return any(isinstance(value.get(key), str | bytes) for key in ("bytes", "path", "url"))
    if isinstance(value, list):
        return any(_names_media(item, certain) for item in value)
    return isinstance(value, bytes) and bool(value)


def _shown(raw: Mapping[str, Any]) -> set[str]:
    """The kinds of media that parts of messages name."""
    messages = raw.get("messages")
    return set(_kinds(messages)) if isinstance(messages, list) else set()


def _kinds(messages: Sequence[Message]) -> Iterator[str]:
    for message in messages:
        content = message.get("content") if isinstance(message, Mapping) else None
        yield from (
            (part["type"] for part in content if is_media(part) and part["type"] in part)
            if isinstance(content, list)
            else ()
        )
