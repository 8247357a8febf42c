"""How a turn says which tool it calls."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from mmrlhf_ray.config.environment import CallFormat, EnvironmentBase

Schemas = Sequence[Mapping[str, Any]]
"""Tools as OpenAI's chat completions describe them: {"type": "function", "function": {name, …, parameters}}."""
Config = TypeVar("Config", bound=EnvironmentBase)

_THOUGHT = "</think>"
_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
_FUNCTION, _FUNCTION_END = "<function=", "</function>"
_PARAMETER = re.compile(r"<parameter=([^>\s]+)>\n?(.*?)\n?</parameter>", re.DOTALL)
_BEGUN = re.compile(r'\{\s*"(?:name|function)"\s*:')
_WORD = re.compile(r"[^\s,;()\[\]]+")
_SHOWN_CHARACTERS = 60
_MOST_TRIES = 200
"""Places in a text where JSON may begin and does not; each is read as far as it goes."""


@dataclass(frozen=True)
class Call:
    """A tool and its arguments, which the tool itself checks."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class Answer:
    """A turn that calls no tool."""

    text: str


@dataclass(frozen=True)
class Unparsable:
    """A turn that means to call a tool and does not say so in the right way."""

    why: str


class _Wrong(Exception):
    pass


def parse(text: str, tools: Schemas, call_format: str) -> tuple[Call, ...] | Answer | Unparsable:
    """The calls of a turn in their order, at least one; or that it is an answer, or why it cannot be read.

    Nothing before the end of a thought (`</think>`) counts.
    """
    known = {tool["function"]["name"]: tool["function"]["parameters"] for tool in tools}
    try:
        calls = tuple(_READERS[call_format](text.rpartition(_THOUGHT)[2], known))
    except _Wrong as wrong:
        return Unparsable(str(wrong))
    return calls or Answer(text)


def format_of(chat_template: str) -> CallFormat:
    """The format that a chat template teaches: `hermes` where it writes <tool_call>, `json` where it describes tools
    otherwise, `words` where it knows none."""
    if _OPEN in chat_template:
        return "hermes"
    return "json" if re.search(r"\btools\b", chat_template) else "words"


def with_format(config: Config, chat_template: str) -> Config:
    """The configuration with `call_format: auto` decided by the model's chat template."""
    if config.call_format != "auto":
        return config
    return config.model_copy(update={"call_format": format_of(chat_template)})


Known = Mapping[str, Mapping[str, Any]]
"""Name of a tool → JSON schema of its arguments."""


def _hermes(text: str, known: Known) -> Iterator[Call]:
    first, *pieces = text.split(_OPEN)
    if _CLOSE in first:
        raise _Wrong(f"a {_CLOSE} has no {_OPEN}")
    for piece in pieces:
        block, end, after = piece.partition(_CLOSE)
        if not end:
            raise _Wrong(f"a {_OPEN} has no {_CLOSE}")
        if _CLOSE in after:
            raise _Wrong(f"a {_CLOSE} has no {_OPEN}")
        yield _tagged(block, known) if _FUNCTION in block else _call(_loaded(block), known)


def _tagged(block: str, known: Known) -> Call:
    """<function=name><parameter=key>value</parameter>…</function>, as newer templates of Qwen have it."""
    inside, end, _ = block.partition(_FUNCTION)[2].partition(_FUNCTION_END)
    if not end or inside.count("<parameter=") != inside.count("</parameter>"):
        raise _Wrong("a <function=…> or <parameter=…> is not closed")
    name, _, inside = inside.partition(">")
    types = _properties(name, known)
    return Call(name, {key: _value(text, types.get(key, {})) for key, text in _PARAMETER.findall(inside)})


def _json(text: str, known: Known) -> Iterator[Call]:
    values = list(_objects(text))
    calls = [value for value in values if _means_call(value, known)]
    if not calls and _BEGUN.search(text) and not any("name" in value for value in values):
        raise _Wrong("the JSON of the call does not end, or is not JSON")
    for value in calls:
        yield _call(value, known)


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """JSON objects anywhere in a text, the outermost ones."""
    at, tries = text.find("{"), _MOST_TRIES
    while at >= 0 and tries:
        try:
            value, at = json.JSONDecoder().raw_decode(text, at)
        except RecursionError:
            return
        except ValueError:
            at, tries = at + 1, tries - 1
        else:
            yield value
        at = text.find("{", at)


def _means_call(value: Mapping[str, Any], known: Known) -> bool:
    inner = value.get("function", value)
    if not isinstance(inner, dict) or not isinstance(inner.get("name"), str):
        return False
    return inner["name"] in known or "arguments" in inner or "parameters" in inner


def _words(text: str, known: Known) -> Iterator[Call]:
    """`name argument …`, one call in a line; the last argument, if it is text, takes all that follows."""
    lines = text.strip().splitlines()
    for i, line in enumerate(lines):
        name = next(iter(_WORD.findall(line)), "")
        if name not in known:
            if i == 0:
                return
            continue
        slots: Mapping[str, Any] = known[name].get("properties", {})
        takes_rest = bool(slots) and _type(list(slots.values())[-1]) == "string"
        after = "\n".join(lines[i:]) if takes_rest else line
        yield Call(name, dict(_filled(name, after.partition(name)[2], slots, known[name].get("required", ()))))
        if takes_rest:
            return


def _filled(name: str, text: str, slots: Mapping[str, Any], required: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Argument → value, from words in the order of the signature."""
    left = text
    for i, (key, schema) in enumerate(slots.items()):
        rest = left.strip()
        if not rest.strip(",;()[]"):
            if key in required:
                raise _Wrong(f"{name} needs {', '.join(required)}, and {key} is missing")
            return
        kind = _type(schema)
        if kind == "string" and i == len(slots) - 1:
            yield key, rest.removeprefix("(").removesuffix(")") if rest.startswith("(") else rest
            return
        count = _length(schema) if kind == "array" else 1
        words = list(_WORD.finditer(left))[:count]
        if count is not None and len(words) < count:
            raise _Wrong(f"{key} of {name} needs {count} values, got {len(words)}")
        left = left[words[-1].end() :]
        items = [_value(word.group(), _items(schema)) for word in words]
        yield key, items if kind == "array" else items[0]
    extra = _WORD.findall(left)
    if extra:
        raise _Wrong(f"{name} takes {', '.join(slots) or 'nothing'}; {_cut(' '.join(extra))!r} is too much")


def _call(value: Any, known: Known) -> Call:
    inner = value.get("function", value) if isinstance(value, dict) else value
    if not isinstance(inner, dict) or not isinstance(inner.get("name"), str):
        raise _Wrong('a call is {"name": …, "arguments": {…}}')
    _properties(inner["name"], known)
    arguments = inner.get("arguments", inner.get("parameters", {}))
    if isinstance(arguments, str):
        arguments = _loaded(arguments)
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, dict):
        raise _Wrong(f'"arguments" must be an object, got {_cut(json.dumps(arguments))}')
    return Call(inner["name"], arguments)


def _properties(name: str, known: Known) -> Mapping[str, Any]:
    if name not in known:
        raise _Wrong(f"there is no tool {_cut(name)!r}; there are {', '.join(known)}")
    properties: Mapping[str, Any] = known[name].get("properties", {})
    return properties


def _loaded(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _Wrong(f"the call is not JSON ({_cut(str(error))})") from None


def _type(schema: Mapping[str, Any]) -> str | None:
    """Of a value, `null` aside."""
    options = [option for option in schema.get("anyOf", [schema]) if option.get("type") != "null"]
    return options[0].get("type") if options else None


def _length(schema: Mapping[str, Any]) -> int | None:
    """How many values a list of fixed length has; None where it may be any number."""
    most: int | None = schema.get("maxItems")
    return most if most == schema.get("minItems") else None


def _items(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    if _type(schema) != "array":
        return schema
    items: Mapping[str, Any] = [*schema.get("prefixItems", ()), schema.get("items", {})][0]
    return items


def _value(text: str, schema: Mapping[str, Any]) -> Any:
    """Text stays text where the schema wants it; else it is JSON if it can be."""
    if _type(schema) == "string":
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"


_READERS: Mapping[str, Callable[[str, Known], Iterator[Call]]] = {"hermes": _hermes, "json": _json, "words": _words}
