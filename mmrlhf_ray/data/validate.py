"""One row as it was read to one row of the PROMPT, DEMONSTRATION, PREFERENCE or RANKING table, or a RowError."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from mmrlhf_ray.data.errors import RowError
from mmrlhf_ray.schema import PREFERENCE, PROMPT, RANKING, modality_of
from mmrlhf_ray.schema.tables import MEDIA_KINDS

MEDIA_LISTS = {"image": "images", "audio": "audios", "video": "videos"}
"""Key of the list of files of each kind that may stand next to `prompt` or `messages`."""

MAX_DEPTH = 256

_ROLES = ("system", "user", "assistant")
_PLACEHOLDER = re.compile(r"<(image|audio|video)>")
_BLANK = {"type": "text", "text": ""}
_LARGEST = float(np.finfo(np.float32).max)
_LAST_RANK = np.iinfo(np.int32).max


Reference = str | bytes | Mapping[str, Any]
"""Media as a row names them: a path, a data URI or an address; bytes; or {"bytes": bytes or None, "path": str or None}.
"""


@dataclass(frozen=True)
class MediaPart:
    """Where a message shows media."""

    kind: str
    path: Reference | None
    """The name in the part, if it has one; most often a path."""


@dataclass(frozen=True)
class Shown:
    """Media found for a part."""

    kind: str
    media_id: str
    name: str
    """The row's name for it: the path, or the media_id."""


def parse_json(text: str | bytes, what: str) -> Any:
    """JSON without NaN and Infinity, nested `MAX_DEPTH` deep at most. Raises RowError; `what` names the text in it."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON number")

    try:
        value = json.loads(text if isinstance(text, str) else text.decode("utf-8"), parse_constant=refuse)
    except UnicodeDecodeError as error:
        raise RowError(f"{what} is not UTF-8 (byte {error.start})", "save the file as UTF-8") from error
    except RecursionError as error:
        raise _too_deep(what) from error
    except ValueError as error:
        raise RowError(f"{what} is not JSON: {error}", "fix the JSON") from error
    check_depth(value, what)
    return value


def check_depth(value: Any, what: str) -> None:
    """Raises RowError for lists and objects within each other that code which calls itself could not follow."""
    depth, level = 0, [value]
    while level := [item for item in level if isinstance(item, list | dict)]:
        depth += 1
        if depth > MAX_DEPTH:
            raise _too_deep(what)
        level = [inner for item in level for inner in (item.values() if isinstance(item, dict) else item)]


def _too_deep(what: str) -> RowError:
    return RowError(f"{what} is nested more than {MAX_DEPTH} deep", "flatten it, or leave the row out")


def conversation(raw: Mapping[str, Any]) -> tuple[list[dict[str, Any]], list[MediaPart]]:
    """(messages in canonical form, their media parts in order) of a row with `messages` or `prompt`."""
    if (raw.get("messages") is None) == (raw.get("prompt") is None):
        found = "both" if "prompt" in raw else "neither"
        raise RowError(f"expected messages or prompt, got {found}", "give exactly one of the two")
    if raw.get("messages") is None:
        messages = [{"role": "user", "content": _parts_of_prompt(raw)}]
    else:
        messages = raw["messages"]
        if isinstance(messages, str):
            messages = parse_json(messages, "messages")
    if not isinstance(messages, list) or not messages:
        raise RowError(f"messages is {_came(messages)}, expected a non-empty list", "give at least one user message")
    parts: list[MediaPart] = []
    canonical = [_message(index, message, parts) for index, message in enumerate(messages)]
    if canonical[-1]["role"] != "user":
        raise RowError(
            f"the last message is from {canonical[-1]['role']}, expected user",
            "end messages with what is asked; an answer goes to response, or to chosen and rejected",
        )
    return canonical, parts


def build_record(
    raw: Mapping[str, Any],
    schema: pa.Schema,
    messages: Sequence[Mapping[str, Any]],
    shown: Sequence[Shown],
    facts_column: str | None = None,
) -> dict[str, Any]:
    """A row of `schema`; keys that it does not have go to `extras`. Raises RowError."""
    record: dict[str, Any] = {
        "messages": json.dumps(messages, ensure_ascii=False),
        "media_ids": [media.media_id for media in shown],
        "task": text(raw.get("task", "default"), "task"),
        "modality": _modality(raw, shown),
        "extras": json.dumps(_extras(raw, schema, facts_column), ensure_ascii=False),
    }
    identity = json.dumps([record[key] for key in identity_keys(schema)]).encode()
    record["prompt_id"] = text(raw.get("prompt_id", hashlib.sha256(identity).hexdigest()[:32]), "prompt_id")
    if not record["prompt_id"]:
        raise RowError("prompt_id is empty", "name the prompt, or leave prompt_id out to have it named by its content")
    record |= _answers(raw, schema)
    return record


def same_prompt(a: Mapping[str, Any], b: Mapping[str, Any], schema: pa.Schema) -> bool:
    """Whether two records with one prompt_id ask the same."""
    return all(a[key] == b[key] for key in identity_keys(schema))


def identity_keys(schema: pa.Schema) -> tuple[str, ...]:
    """Columns that make two prompts the same. Facts count only where no answer stands next to them: names of people,
    times and the like differ between the answers to one prompt."""
    asked = ("messages", "media_ids", "task")
    return (*asked, "extras") if schema.equals(PROMPT) else asked


def text(value: Any, what: str) -> str:
    """`value` if it is a string that can be stored as UTF-8. Raises RowError."""
    if not isinstance(value, str):
        raise RowError(f"{what} is {_came(value)}, expected text", f"give {what} as a string")
    _check_utf8(value, what)
    return value


def _check_utf8(value: str, what: str) -> None:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RowError(
            f"{what} holds half a character at {error.start}", "remove lone \\ud800–\\udfff escapes"
        ) from None


def _came(value: Any) -> str:
    return "missing" if value is None else "empty" if value in ([], {}, "") else f"a {type(value).__name__}"


def _parts_of_prompt(raw: Mapping[str, Any]) -> list[dict[str, str]]:
    """Content of the shorthand: media stand where <image>, <audio>, <video> are, or before the text."""
    pieces = _PLACEHOLDER.split(text(raw["prompt"], "prompt"))  # text, kind, text, kind, …, text
    if len(pieces) == 1:
        before = [{"type": kind} for kind, key in MEDIA_LISTS.items() for _ in reference_list(raw, key)]
        return [*before, {"type": "text", "text": pieces[0]}]
    return [{"type": piece} if i % 2 else {"type": "text", "text": piece} for i, piece in enumerate(pieces)]


def string_list(raw: Mapping[str, Any], key: str) -> list[str]:
    """The list of strings under `key`, [] if there is none. Raises RowError."""
    return [text(item, f"{key}[{i}]") for i, item in enumerate(_list(raw, key))]


def reference_list(raw: Mapping[str, Any], key: str) -> list[Reference]:
    """The list of media references under `key`, [] if there is none. Raises RowError."""
    return [_reference(item, f"{key}[{i}]") for i, item in enumerate(_list(raw, key))]


def _list(raw: Mapping[str, Any], key: str) -> list[Any]:
    value = raw.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise RowError(f"{key} is {_came(value)}, expected a list", f'write "{key}": ["…", …]')
    return value


def _reference(value: Any, what: str) -> Reference:
    if isinstance(value, bytes):
        return value
    if value is None or value == "":
        came = "null" if value is None else "empty"
        raise RowError(f"{what} is {came}, expected media", "name a file, or leave it out")
    if not isinstance(value, dict):
        return text(value, what)
    types = {"bytes": bytes, "path": str}
    wrong = value.keys() - types.keys() or {k for k, v in value.items() if not isinstance(v, (types[k], type(None)))}
    if wrong or not any(value.values()):
        raise RowError(
            f"{what} has {', '.join(f'{k}: {_came(v)}' for k, v in value.items()) or 'nothing'}, expected media",
            'give a path, bytes, or {"bytes": …, "path": …} with one of the two',
        )
    return value


def _message(index: int, message: Any, parts: list[MediaPart]) -> dict[str, Any]:
    where = f"messages[{index}]"
    if not isinstance(message, dict) or set(message) != {"role", "content"}:
        came = sorted(message) if isinstance(message, dict) else _came(message)
        raise RowError(f"{where} is {came}, expected role and content", "give each message these two keys only")
    role, content = message["role"], message["content"]
    if role not in _ROLES or (role == "system" and index):
        raise RowError(f"{where}.role is {role!r}", "use user and assistant, and system only for the first message")
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise RowError(f"{where}.content is {_came(content)}, expected text or parts", "give a string or a list")
    canonical = [_part(f"{where}.content[{p}]", part) for p, part in enumerate(content)]
    canonical = [part for part in canonical if part != _BLANK]
    shown = [part for part in canonical if part["type"] != "text"]
    if not canonical:
        raise RowError(f"{where}.content is empty", "give it text or media, or leave the message out")
    if role == "user":
        parts.extend(MediaPart(part["type"], part.get("path")) for part in shown)
        keep = ("type", "text")
        return {"role": role, "content": [{k: part[k] for k in keep if k in part} for part in canonical]}
    if shown:
        raise RowError(f"{where} ({role}) shows a {shown[0]['type']}", "put media into user messages")
    # Templates of text-first families take only a string here.
    return {"role": role, "content": "".join(part["text"] for part in canonical)}


def _part(where: str, part: Any) -> dict[str, Any]:
    """{"type": "text", "text"} or {"type": kind, "path"?: a reference}."""
    if isinstance(part, dict):
        part = {key: value for key, value in part.items() if value is not None}  # what dataset libraries fill in
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text":
        if set(part) != {"type", "text"}:
            raise RowError(f"{where} has keys {sorted(part)}", 'write {"type": "text", "text": …}')
        return {"type": "text", "text": text(part["text"], f"{where}.text")}
    if kind not in MEDIA_KINDS:
        known = ", ".join(("text", *MEDIA_KINDS))
        came = f"type {kind!r}" if kind else "no type"
        raise RowError(f"{where} has {came}, expected one of {known}", "use these part types")
    if not set(part) <= {"type", kind}:
        raise RowError(f"{where} has keys {sorted(part)}", f'write {{"type": "{kind}", "{kind}": "path/of/the/file"}}')
    return {"type": kind, "path": _reference(part[kind], f"{where}.{kind}")} if kind in part else {"type": kind}


def _modality(raw: Mapping[str, Any], shown: Sequence[Shown]) -> str:
    modality = modality_of({media.kind for media in shown})
    if raw.get("modality", modality) != modality:
        raise RowError(f"modality is {raw['modality']!r} but the messages show {modality}", "leave modality out")
    return modality


def _extras(raw: Mapping[str, Any], schema: pa.Schema, facts_column: str | None) -> dict[str, Any]:
    extras = raw.get("extras")
    if isinstance(extras, str):
        extras = parse_json(extras, "extras")
    if extras is None:
        extras = {}
    if not isinstance(extras, dict):
        raise RowError(f"extras is {_came(extras)}, expected an object", 'write "extras": {"key": value}')
    known = {*schema.names, "prompt", *MEDIA_LISTS.values()}
    others = {key: value for key, value in raw.items() if key not in known}
    twice = sorted(extras.keys() & others.keys())
    if twice:
        raise RowError(f"{twice[0]} stands in the row and in its extras", "keep one of the two")
    extras = extras | others
    for key, value in extras.items():
        _check_json(key, value)
    if facts_column is not None and not isinstance(extras.get(facts_column), str):
        found = _came(extras.get(facts_column))
        raise RowError(
            f"facts_column {facts_column!r} is {found}, expected text; extras has {sorted(extras)}",
            "add the key to the row or change facts_column",
        )
    return extras


def _check_json(key: str, value: Any) -> None:
    try:
        _check_utf8(json.dumps({key: value}, ensure_ascii=False, allow_nan=False), key)
    except (TypeError, ValueError) as error:
        if isinstance(error, RowError):
            raise
        raise RowError(
            f"{key} cannot be stored as JSON: {error}",
            f"turn the column into text or numbers, or leave it out with data.columns (--columns {key}=)",
        ) from error


def _answers(raw: Mapping[str, Any], schema: pa.Schema) -> dict[str, Any]:
    """The columns of `schema` other than the prompt's."""
    answers: dict[str, Any] = {
        key: text(raw.get(key), key) for key in ("response", "chosen", "rejected") if key in schema.names
    }
    if answers.get("response") == "":
        raise RowError("response is empty", "write what the model should answer")
    if schema.equals(PREFERENCE) and answers["chosen"] == answers["rejected"]:
        raise RowError("chosen and rejected are the same text", "leave out pairs that prefer nothing")
    for key in ("margin", "feedback"):
        if key in schema.names:
            answers[key] = _number(raw.get(key, 0.0), key, f"give a number, or leave {key} out")
    return answers | (_ranking(raw) if schema.equals(RANKING) else {})


def _number(value: Any, what: str, remedy: str) -> float:
    """`value` if it is a finite number as float32 holds it."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= _LARGEST:
        raise RowError(f"{what} is {value!r}, expected a finite number", remedy)
    return float(value)


def _ranking(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Responses with ranks, ratings by aspect, or both."""
    responses = string_list(raw, "responses")
    if len(responses) < 2:
        raise RowError(f"responses has {len(responses)}, expected 2 or more", "give the responses that were compared")
    if len(set(responses)) < len(responses):
        twice = max(responses, key=responses.count)
        raise RowError(f"responses has {twice[:40]!r} more than once", "leave repeated responses out")
    ranks, aspects = _ranks(raw.get("ranks", []), len(responses)), _aspects(raw.get("aspects", {}), len(responses))
    if not ranks and all(rating is None for ratings in aspects.values() for rating in ratings):
        raise RowError("neither ranks nor a rating in aspects", "say what people thought of the responses")
    return {"responses": responses, "ranks": ranks, "aspects": json.dumps(aspects, ensure_ascii=False)}


def _ranks(value: Any, count: int) -> list[int]:
    whole = isinstance(value, list) and all(type(rank) is int and 1 <= rank <= _LAST_RANK for rank in value)
    if not whole or len(value) not in (0, count):
        raise RowError(
            f"ranks is {value!r}, expected a whole number from 1 for each of the {count} responses",
            "write 1 for the best and equal numbers for ties, or leave ranks out",
        )
    return list(value)


def _aspects(value: Any, count: int) -> dict[str, list[float | None]]:
    if isinstance(value, str):
        value = parse_json(value, "aspects")
    if not isinstance(value, dict):
        raise RowError(f"aspects is {_came(value)}, expected an object", 'write "aspects": {"aspect": [rating, …]}')
    aspects: dict[str, list[float | None]] = {}
    for aspect, ratings in value.items():
        what = f"aspects[{text(aspect, 'an aspect')!r}]"
        if not isinstance(ratings, list) or len(ratings) != count:
            got = f"{len(ratings)} entries" if isinstance(ratings, list) else _came(ratings)
            raise RowError(f"{what} is {got}, expected one for each of the {count} responses", "null = not rated")
        remedy = "give a number, or null where nobody rated"
        aspects[aspect] = [r if r is None else _number(r, f"{what}[{i}]", remedy) for i, r in enumerate(ratings)]
    return aspects
