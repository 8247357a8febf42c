"""Conversations of `from` and `value`: what LLaMA-Factory's sharegpt rows and LLaVA's have in common."""

from collections.abc import Mapping
from typing import Any

from mmrlhf_ray.data.errors import RowError
from mmrlhf_ray.data.formats.base import Row
from mmrlhf_ray.data.formats.chat import Message, record_chat, tagged_text

_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
_SPEAKERS = {"user": "human", "assistant": "gpt", "system": "system"}


def turns_of(row: Row) -> list[Message]:
    """`conversations`, after `system` where there is one, as messages. Raises RowError."""
    value = row.get("conversations")
    if not isinstance(value, list) or not value:
        raise RowError(
            "conversations is not a non-empty list", 'write "conversations": [{"from": "human", "value": …}]'
        )
    messages = [turn_message(turn, f"conversations[{index}]") for index, turn in enumerate(value)]
    system = row.get("system")
    if system in (None, ""):
        return messages
    if not isinstance(system, str):
        raise RowError(f"system is a {type(system).__name__}, expected text", "give the system prompt as a string")
    if messages[0]["role"] == "system":
        raise RowError("system and a system turn are both given", "keep one of the two")
    return [{"role": "system", "content": system}, *messages]


def turn_message(turn: Any, where: str) -> Message:
    """One turn as a message. Raises RowError."""
    present = {key: value for key, value in turn.items() if value is not None} if isinstance(turn, Mapping) else {}
    if set(present) != {"from", "value"} or not all(isinstance(item, str) for item in present.values()):
        raise RowError(f"{where} is not a turn", 'write {"from": "human", "value": "…"} with these two keys only')
    if present["from"] not in _ROLES:
        known = ", ".join(_ROLES)
        raise RowError(f"{where}.from is {present['from']!r}, expected one of {known}", "leave such rows out")
    return {"role": _ROLES[present["from"]], "content": present["value"]}


def turn_text(value: Any, where: str) -> str:
    """Text of an answer: a turn of the assistant, or a string. Raises RowError."""
    if isinstance(value, str):
        return value
    message = turn_message(value, where)
    if message["role"] != "assistant":
        raise RowError(f"{where} is from {message['role']}, expected gpt", "give the answer")
    text: str = message["content"]
    return text


def written_turns(record: Row, name: str) -> tuple[list[dict[str, str]], dict[str, str]]:
    """(conversations, {"system": …} where there is one) of a record. Raises RowError."""
    messages = record_chat(record)
    texts = [(m["role"], tagged_text(m, name)) for m in messages]
    system = {"system": texts[0][1]} if texts[0][0] == "system" else {}
    return [turn(_SPEAKERS[role], text) for role, text in texts[len(system) :]], system


def turn(speaker: str, text: str) -> dict[str, str]:
    return {"from": speaker, "value": text}
