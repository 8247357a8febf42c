"""What is wrong with a configuration, in words: the key, what was expected, what came, the nearest key there is."""

import difflib
import json
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic_core import ErrorDetails


def problem(
    detail: ErrorDetails, kind: type[BaseModel], origin_of: Callable[[str], str | None] = lambda key: None
) -> str:
    """What is wrong with a configuration of that kind, where, and what to do. `origin_of`: of a key, file and line."""
    key = ".".join(str(part) for part in detail["loc"])
    origin = origin_of(key) if key else None
    head = f"{key} ({origin}): " if origin else f"{key}: " if key else ""
    if detail["type"] == "extra_forbidden":
        return f"{head}no such key; {_nearest(key, kind)}"
    if detail["type"] == "missing":
        return f"{key}: required, but not given"
    if detail["type"] == "value_error":
        return head + str(detail["ctx"]["error"])
    if detail["type"] in ("union_tag_invalid", "union_tag_not_found"):
        known = detail["ctx"].get("expected_tags", "those in the documentation")
        return f"{head}`kind` must be one of {known}, got {detail['ctx'].get('tag', 'none')}"
    got = detail["input"]
    shown = json.dumps(got, ensure_ascii=False, default=str)
    shown = shown if len(shown) <= 80 else shown[:77] + "..."
    return f"{head}must {_expected(detail)}, got {shown} ({_type_name(got)})"


def untagged(detail: ErrorDetails, values: dict[str, Any]) -> ErrorDetails:
    """pydantic puts the `kind` of a section into the path to its keys, where the file has no such level."""
    path: list[int | str] = []
    here: Any = values
    for part in detail["loc"]:
        if path and isinstance(here, dict) and part == here.get("kind"):
            # Only once: the section may have a key of the same name.
            here = {key: value for key, value in here.items() if key != "kind"}
            continue
        path.append(part)
        here = here[part] if _holds(here, part) else None
    return {**detail, "loc": tuple(path)}


def _holds(values: Any, part: int | str) -> bool:
    return part in values if isinstance(values, dict) else isinstance(values, list) and isinstance(part, int)


def _expected(detail: ErrorDetails) -> str:
    if detail["type"] == "model_type":
        return "be a section with keys of its own"
    return (
        re.sub(r"^\w+ should ", "", detail["msg"])
        .replace(" a valid integer", " an integer")
        .replace(" a valid ", " a ")
    )


def _type_name(value: object) -> str:
    names: Mapping[type, str] = {
        str: "text", bool: "true/false", int: "integer", float: "number", list: "list", dict: "section"
    }  # fmt: skip
    return names.get(type(value), "nothing")


def _nearest(key: str, kind: type[BaseModel]) -> str:
    """A remedy for an unknown key: the same name elsewhere, else the closest next to it, else the closest of all."""
    keys = [_filled(known, key) for known in dotted_keys(kind)]
    if key in keys:
        return "it belongs to another `kind` than the one given here"
    prefix, dot, leaf = key.rpartition(".")
    siblings = [k for k in keys if k.rpartition(".")[0] == prefix]
    same = _shallowest([k for k in keys if k.rpartition(".")[2] == leaf])
    close = difflib.get_close_matches(key, siblings, n=1, cutoff=0.8)
    if not close:
        close = same or [
            prefix + dot + name
            for name in difflib.get_close_matches(leaf, [k.rpartition(".")[2] for k in siblings], n=1)
        ]
    if not close:
        leaves = difflib.get_close_matches(leaf, {k.rpartition(".")[2] for k in keys}, n=1)
        close = [k for k in keys if k.rpartition(".")[2] in leaves]
    if not close and not siblings:
        close = difflib.get_close_matches(key, keys, n=1, cutoff=0.0)
    if close:
        return f"the nearest is {' or '.join(close[:3])}"
    where = f"keys of {prefix}" if prefix else "top-level keys"
    return f"{where} are {', '.join(k.rpartition('.')[2] for k in siblings)}"


def _filled(known: str, key: str) -> str:
    """`known` with the names that `key` has in the places of its `*`."""
    parts = known.split(".")
    for i, said in enumerate(key.split(".")[: len(parts)]):
        if parts[i] == "*":
            parts[i] = said
        if parts[i] != said:
            break
    return ".".join(parts)


def _shallowest(keys: Sequence[str]) -> list[str]:
    """Deeper keys of the same name are special cases."""
    depth = min((key.count(".") for key in keys), default=0)
    return [key for key in keys if key.count(".") == depth]


def dotted_keys(kind: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every key of a configuration class, sections and values, as `section.key`; the user's own names are `*`."""
    for name, info in kind.model_fields.items():
        yield prefix + name
        below: dict[str, None] = {}
        for step, section in _sections(info.annotation):
            below |= dict.fromkeys(dotted_keys(section, f"{prefix}{name}.{step}"))
        yield from below


def _sections(annotation: Any) -> Iterator[tuple[str, type[BaseModel]]]:
    """The section classes in an annotation `X`, `X | Y` or `dict[str, X]`, with what stands before their keys."""
    if typing.get_origin(annotation) is typing.Annotated:
        annotation = typing.get_args(annotation)[0]
    if typing.get_origin(annotation) is dict:
        yield from (("*." + step, section) for step, section in _sections(typing.get_args(annotation)[1]))
        return
    options = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    yield from (("", option) for option in options if isinstance(option, type) and issubclass(option, BaseModel))
