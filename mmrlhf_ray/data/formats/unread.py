"""What a row holds besides the keys of its format: parts of a prompt are used or refused, never left in the extras."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmrlhf_ray.data.errors import RowError
from mmrlhf_ray.data.formats.base import SYSTEM, TOOLS, Row, media_kind_of
from mmrlhf_ray.data.formats.chat import Message, is_media, lead_with_media, split_tags
from mmrlhf_ray.data.validate import MEDIA_LISTS, reference_list, text

_MEDIA_NAME = re.compile(
    r"data:(?:(?P<image_>image)|(?P<audio_>audio)|(?P<video_>video))/.*"
    r"|.+\.(?:(?P<image>png|jpe?g|webp|gif|bmp|tiff?|heic|heif|avif)|(?P<audio>wav|flac|ogg|opus|mp3|m4a|aac)"
    r"|(?P<video>mp4|m4v|mov|webm|avi|mkv))(?:\?[^/]*)?",
    re.IGNORECASE | re.DOTALL,
)
_GROUNDING = re.compile(r"<(ref-object|bbox)>")
_TEXTS = ("prompt", "messages", "response", "chosen", "rejected")


def with_prompt_parts(row: Row, raw: dict[str, Any], keys: frozenset[str], name: str) -> dict[str, Any]:
    """`raw`, read from `row`, with the row's `system` and `history` before what is asked, unless the format has them.

    `keys`: those of the format. Raises RowError for tools, objects that the texts refer to, and media that the
    messages do not show.
    """
    for key in TOOLS:
        if _offers(row.get(key)):
            raise RowError(f"{key} cannot be expressed: the prompt would lack them", f"leave out the row or {key}")
    if row.get("objects") and any(_GROUNDING.search(str(raw[key])) for key in _TEXTS if key in raw):
        raise RowError("objects cannot be expressed: <ref-object> and <bbox> would be texts", "write them into texts")
    if "media_ids" not in raw:
        _refuse_unshown_media(row, raw, keys, name)
    _refuse_tags_of_nothing(row, raw)
    before = {key: row[key] for key in (*SYSTEM, "history") if key not in keys and _says_something(row.get(key), key)}
    if not before or ("messages" in raw) == ("prompt" in raw):
        return raw
    return _with_messages_before(raw, before)


def _says_something(value: Any, key: str) -> bool:
    return bool(value) and isinstance(value, list if key == "history" else str)


def _offers(tools: Any) -> bool:
    """Whether a list of tools, or its JSON, names any."""
    if isinstance(tools, str):
        try:
            tools = json.loads(tools) if tools.strip() else None
        except (ValueError, RecursionError):
            return True
    return bool(tools)


def _with_messages_before(raw: dict[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    messages = raw.get("messages")
    first = ", ".join(before)
    if messages is None:
        question = {"role": "user", "content": text(raw["prompt"], "prompt")}
        lists = {key: reference_list(raw, key) for key in MEDIA_LISTS.values() if raw.get(key)}
        messages = lead_with_media(split_tags([*_turns(before.get("history", [])), question]), lists)
    elif not isinstance(messages, list) or "history" in before:
        raise RowError(f"{first} stands next to messages", "put it into messages")
    systems = [value for key, value in before.items() if key != "history"]
    if len(systems) > 1 or (systems and isinstance(messages[0], Mapping) and messages[0].get("role") == "system"):
        raise RowError(f"{first} and a system message are both given", "keep one of the two")
    others = {key: value for key, value in raw.items() if key not in ("prompt", "messages", *before)}
    if isinstance(others.get("extras"), Mapping):
        kept = {key: value for key, value in others["extras"].items() if key not in before or key in raw}
        others = {key: value for key, value in others.items() if key != "extras"} | ({"extras": kept} if kept else {})
    return {"messages": [*({"role": "system", "content": system} for system in systems), *messages], **others}


def _turns(history: list[Any]) -> list[Message]:
    """Earlier turns of rows that have a list of [question, answer]."""
    for number, pair in enumerate(history):
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(said, str) for said in pair):
            raise RowError(f"history[{number}] is not [question, answer]", "write earlier turns into messages")
    roles = ("user", "assistant")
    return [{"role": role, "content": said} for pair in history for role, said in zip(roles, pair, strict=True)]


def _refuse_unshown_media(row: Row, raw: Mapping[str, Any], keys: frozenset[str], name: str) -> None:
    for key, value in row.items():
        for kind in _named_kinds(key, value) if key not in keys else ():
            if not raw.get(MEDIA_LISTS[kind]) and kind not in _shown(raw):
                raise RowError(
                    f"{key} names media that {name} rows do not show",
                    f"name them in {_own_key(kind, keys)}, or keep {key} inside extras",
                )


def _refuse_tags_of_nothing(row: Row, raw: Mapping[str, Any]) -> None:
    """A tag next to a list of media that is empty is not a text about tags."""
    for kind, key in MEDIA_LISTS.items():
        empty = next((name for name in (key, kind) if name in row and not row[name]), None)
        if empty and f"<{kind}>" in str(raw.get("messages")):
            raise RowError(f"<{kind}> stands in a text and {empty} is empty", f"name the {kind}, or leave {empty} out")


def _own_key(kind: str, keys: frozenset[str]) -> str:
    """The key by which rows of a format name media of a kind."""
    own = sorted(key for key in keys if media_kind_of(key) == kind)
    return own[-1] if own else MEDIA_LISTS[kind]


def _named_kinds(key: str, value: Any) -> set[str]:
    """The kinds of media that a key names, which is called as if it did, or a key inside of it."""
    kind = media_kind_of(key)
    if kind is None:
        return set()
    if kind != "any":
        return {kind} if _names_media(value, key in (kind, MEDIA_LISTS[kind])) else set()
    if isinstance(value, Mapping):
        inside = [_named_kinds(str(k), item) | _kind_of_name(item) for k, item in value.items()]
        return set().union(*inside)
    items = value if isinstance(value, list) else [value]
    return set().union(*(_named_kinds(key, i) if isinstance(i, Mapping) else _kind_of_name(i) for i in items))


def _names_media(value: Any, certain: bool) -> bool:
    """Whether a value stands for media: `certain` where its key can mean nothing else."""
    if isinstance(value, str):
        return bool(value) and (certain or bool(_kind_of_name(value)))
    if isinstance(value, Mapping):
        return any(isinstance(value.get(key), str | bytes) for key in ("bytes", "path", "url"))
    if isinstance(value, list):
        return any(_names_media(item, certain) for item in value)
    return isinstance(value, bytes) and bool(value)


def _kind_of_name(name: Any) -> set[str]:
    found = _MEDIA_NAME.fullmatch(name) if isinstance(name, str) else None
    return {found.lastgroup.rstrip("_")} if found and found.lastgroup else set()


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
