"""A function as a tool: its signature, type hints and docstring become a schema, and clips are given by number."""

import asyncio
import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Union

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, PydanticSchemaGenerationError, ValidationError, create_model

from mmrlhf_ray.data.media import Clip, MediaLimits
from mmrlhf_ray.environments.parts import Film, Sound, decoded
from mmrlhf_ray.environments.protocol import Shown
from mmrlhf_ray.schema.tables import MEDIA_KINDS

_MEDIA_TYPES: Mapping[Any, str] = {Image.Image: "image", Sound: "audio", Clip: "video", Film: "video"}
_ARRAY_NAMES = {
    "image": "image",
    "picture": "image",
    "sound": "audio",
    "samples": "audio",
    "clip": "video",
    "video": "video",
    "frames": "video",
}
_NOUNS = dict(zip(MEDIA_KINDS, ("image", "sound", "clip"), strict=True))
_ARGUMENT = re.compile(r"^\s*(\w+)\s*(?:\([^)]*\))?:\s+(\S.*)$")
_SHOWN_PROBLEMS = 3


class Refused(Exception):
    """Why a tool does not do what it was asked for, as the policy is told."""


@dataclass(frozen=True)
class _Media:
    """A parameter that takes a clip of the episode."""

    kind: str
    form: type
    """What it is given as: an array, a Film, or what decoding makes."""


@dataclass(frozen=True)
class Tool:
    """A function that the policy may call."""

    name: str
    function: Callable[..., Any]
    fixed: Mapping[str, Any]
    """Arguments that the configuration gives; the policy does not see them."""
    media: Mapping[str, _Media]
    model: type[BaseModel]
    """What checks the arguments of a call."""
    meaning: str

    @cached_property
    def schema(self) -> dict[str, Any]:
        """As OpenAI's chat completions describe a function."""
        parameters = _without_titles(self.model.model_json_schema())
        parameters.pop("additionalProperties", None)
        function = {"name": self.name, "description": self.meaning, "parameters": parameters}
        return {"type": "function", "function": function}

    def call(self, arguments: Mapping[str, Any], shown: Sequence[Shown], limits: MediaLimits) -> Any:
        """What the function returns. Raises Refused for wrong arguments and clips, and whatever the function raises."""
        try:
            checked = self.model.model_validate(dict(arguments))
        except ValidationError as error:
            raise Refused(_told(error, self.model.model_fields)) from None
        given = {name: getattr(checked, name) for name in self.model.model_fields}
        for name, media in self.media.items():
            given[name] = _clip(given[name], media, shown, limits)
        value = self.function(**given, **self.fixed)
        return asyncio.run(value) if inspect.iscoroutine(value) else value


def tool_of(name: str, function: Callable[..., Any], fixed: Mapping[str, Any]) -> Tool:
    """A function, named as the policy calls it. Parameters behind `*` are settings, which the policy neither sees nor
    gives. Raises TypeError for a signature that a tool cannot have."""
    parameters = inspect.signature(function).parameters
    unknown = [key for key in fixed if key not in parameters]
    if unknown:
        raise TypeError(f"has no argument {unknown[0]!r}; its arguments are {', '.join(parameters) or 'none'}")
    meaning, about = _described(inspect.getdoc(function) or "")
    hints = typing.get_type_hints(function, include_extras=True)
    fields: dict[str, Any] = {}
    media: dict[str, _Media] = {}
    for key, parameter in parameters.items():
        if key in fixed:
            continue
        if parameter.kind is parameter.KEYWORD_ONLY:
            if parameter.default is parameter.empty:
                raise TypeError(f"needs the argument {key!r} from the configuration, as it stands behind *")
            continue
        if parameter.kind is not parameter.POSITIONAL_OR_KEYWORD:
            raise TypeError(f"has the parameter {parameter}; a tool's parameters have names of their own")
        hint = hints.get(key, Any)
        found = _media_of(key, hint)
        if found is None:
            default = ... if parameter.default is parameter.empty else parameter.default
            fields[key] = (hint, Field(default, description=about.get(key)))
        else:
            media[key] = found
    for key, found in media.items():  # behind the others, since they are seldom given
        number = f"number of the {_NOUNS[found.kind]}, counted from 1"
        optional = parameters[key].default is None
        fields[key] = (int | None if optional else int, Field(None if optional else 1, description=number))
    try:
        model = create_model(name, __config__=ConfigDict(extra="forbid", protected_namespaces=()), **fields)
        model.model_json_schema()
    except (PydanticSchemaGenerationError, ValueError) as error:
        raise TypeError(f"has parameters that cannot be described: {' '.join(str(error).split())}") from None
    return Tool(name, function, dict(fixed), media, model, meaning)


def _media_of(name: str, hint: Any) -> _Media | None:
    options = [o for o in typing.get_args(hint) if o is not type(None)] if _is_union(hint) else [hint]
    if len(options) != 1:
        return None
    (only,) = options
    if typing.get_origin(only) is np.ndarray or only is np.ndarray:
        if name not in _ARRAY_NAMES:
            raise TypeError(f"has the array {name!r}; an array is called one of {', '.join(_ARRAY_NAMES)}")
        return _Media(_ARRAY_NAMES[name], np.ndarray)
    kind = _MEDIA_TYPES.get(only) if isinstance(only, type) else None
    return None if kind is None else _Media(kind, only)


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (Union, types.UnionType)


def _clip(number: int | None, media: _Media, shown: Sequence[Shown], limits: MediaLimits) -> Any:
    """Decoded clip number `number` of its kind."""
    if number is None:
        return None
    noun, clips = _NOUNS[media.kind], [clip for clip in shown if clip.kind == media.kind]
    if not 1 <= number <= len(clips):
        count = f"{len(clips)} {noun}{'s' * (len(clips) != 1)}" if clips else f"no {noun}"
        raise Refused(f"there is no {noun} {number}; so far {count} {'was' if len(clips) <= 1 else 'were'} shown")
    if media.form is Film:
        return Film(clips[number - 1].data, limits)
    try:
        found = decoded(clips[number - 1], limits)
    except ValueError as error:
        raise Refused(f"{noun} {number} cannot be decoded: {error}") from None
    if media.form is not np.ndarray:
        return found
    if isinstance(found, Sound):
        return found.samples
    return found.frames if isinstance(found, Clip) else np.asarray(found)


def _described(docstring: str) -> tuple[str, Mapping[str, str]]:
    """The first paragraph, and `name: meaning` of the lines behind it."""
    first, _, rest = docstring.partition("\n\n")
    found = (_ARGUMENT.match(line) for line in rest.splitlines())
    return " ".join(first.split()), {match[1]: match[2].strip() for match in found if match}


def _told(error: ValidationError, fields: Mapping[str, Any]) -> str:
    problems = [f"{'.'.join(map(str, e['loc'])) or 'arguments'}: {e['msg']}" for e in error.errors()[:_SHOWN_PROBLEMS]]
    return f"wrong arguments ({'; '.join(problems)}); it takes {', '.join(fields) or 'none'}"


def _without_titles(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_without_titles(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    # A title is text; a parameter called title is a schema.
    return {k: _without_titles(v) for k, v in schema.items() if k != "title" or not isinstance(v, str)}
