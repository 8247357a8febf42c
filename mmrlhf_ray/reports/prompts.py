"""A prompt's messages as pages show them. The macro for one part is in templates/parts.html.j2."""

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Message = tuple[str, list[dict[str, Any]]]
"""(role, parts); a part has `type`, and `text` or the `media_id` of what it shows."""


def shown_messages(messages: str, media_ids: Sequence[str]) -> list[Message]:
    """The columns `messages` and `media_ids` of PROMPT, put together."""
    ids = iter(media_ids)
    return [(m["role"], [_part(part, ids) for part in _parts(m["content"])]) for m in json.loads(messages)]


def data_uri(mime: str, data: bytes) -> str:
    """Media as an address that holds all of it."""
    return f"data:{mime};base64,{base64.b64encode(data).decode('ascii')}"


def _parts(content: str | list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _part(part: Mapping[str, Any], ids: Iterator[str]) -> dict[str, Any]:
    return dict(part) if part["type"] == "text" else {"type": part["type"], "media_id": next(ids)}
