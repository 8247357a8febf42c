"""A configuration class as a JSON schema in which every key has its meaning: the docstring that follows it in the code.

Editors read it (`mmrlhf config JOB --schema`), and docs/configuration.md and the template files are made from it.
"""

import ast
import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import pairwise
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema

REF = "#/$defs/"
Schema = dict[str, Any]


def describe(kind: type[BaseModel]) -> Schema:
    """The JSON schema of a configuration class; sections are in `$defs`, by the names of their classes."""
    return kind.model_json_schema(schema_generator=_Described)


def editor_schema(kind: type[BaseModel], job: str | None) -> Schema:
    """What an editor checks a file by: keys, types, bounds. What is required is asked for at the top alone, and not
    where the file has a `base`, which may give the rest; `null` puts a section back to its default."""
    schema = _open(describe(kind))
    if job is None:
        return {"$schema": _DRAFT, **schema}
    file_keys: Schema = {
        "job": {"const": job, "description": "What the file is for; also the command that runs it."},
        "base": {"type": "string", "description": "Job file to start from, relative to this one."},
    }
    needed = schema.pop("required")
    return {
        "$schema": _DRAFT,
        **schema,
        "properties": file_keys | schema["properties"],
        "anyOf": [{"required": ["base"]}, {"required": needed}],
    }


def _open(schema: Schema) -> Schema:
    """The schema with sections that need not be complete."""
    sections = {
        name: {k: v for k, v in section.items() if k != "required"} for name, section in schema["$defs"].items()
    }
    opened: Schema = _nullable(schema | {"$defs": sections})
    return opened


def _nullable(node: Any) -> Any:
    if isinstance(node, list):
        return [_nullable(part) for part in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        said = {key: value for key, value in node.items() if key != "$ref"}
        return said | {"anyOf": [{"$ref": node["$ref"]}, {"type": "null"}]}
    renamed = {"anyOf" if key == "oneOf" else key: value for key, value in node.items() if key != "discriminator"}
    return {key: value if key == "default" else _nullable(value) for key, value in renamed.items()}


_DRAFT = "https://json-schema.org/draft/2020-12/schema"


def properties(schema: Schema) -> Mapping[str, Schema]:
    """The keys of a section, also of one that may be a number instead."""
    return _section(schema).get("properties", {})


def required(schema: Schema) -> Sequence[str]:
    """Those of its keys that a section must have."""
    return _section(schema).get("required", [])


def _section(schema: Schema) -> Schema:
    return next((option for option in schema.get("anyOf", ()) if "properties" in option), schema)


def sections_of(node: Schema) -> Iterator[str]:
    """Names of the sections that a value may be, in `$defs`."""
    for option in (node, *node.get("anyOf", ()), *node.get("oneOf", ())):
        if REF in option.get("$ref", ""):
            yield option["$ref"].removeprefix(REF)


def meaning(node: Schema, sections: Mapping[str, Schema]) -> str:
    """A key's own, or that of the section it is."""
    if "description" in node:
        return str(node["description"])
    return next((sections[name].get("description", "") for name in sections_of(node)), "")


def without_meaning(kind: type[BaseModel]) -> list[str]:
    """Keys of a configuration class and its sections that say nothing: class and key."""
    schema = describe(kind)
    sections = schema.get("$defs", {})
    return [
        f"{name}.{key}"
        for name, section in {kind.__name__: schema, **sections}.items()
        for key, node in properties(section).items()
        if not meaning(node, sections) and not is_tag(key, node)
    ]


def is_tag(key: str, node: Schema) -> bool:
    """Whether the key only says which section it is in."""
    return key == "kind" and "const" in node


def meanings(section: type[BaseModel]) -> Mapping[str, str]:
    """Key → the docstring that follows it, its own or that of the class that it is inherited from."""
    found: dict[str, str] = {}
    for part in reversed(section.__mro__):
        if issubclass(part, BaseModel) and part.__module__.startswith(__name__.partition(".")[0]):
            found |= _docstrings(part)
    return found


def sentence(docstring: str) -> str:
    """A docstring's first paragraph on one line."""
    return " ".join(inspect.cleandoc(docstring).partition("\n\n")[0].split())


@cache
def _docstrings(section: type[BaseModel]) -> Mapping[str, str]:
    found, body = {}, _classes(section.__module__)[section.__name__].body
    for key, after in pairwise(body):
        if (
            isinstance(key, ast.AnnAssign)
            and isinstance(key.target, ast.Name)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
            and isinstance(after.value.value, str)
        ):
            found[key.target.id] = sentence(after.value.value)
    return found


@cache
def _classes(module: str) -> Mapping[str, ast.ClassDef]:
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}


class _Described(GenerateJsonSchema):
    def model_schema(self, schema: core_schema.ModelSchema) -> Schema:
        found, section = super().model_schema(schema), schema["cls"]
        if "description" in found:
            found["description"] = sentence(found["description"])
        said = meanings(section)
        for key, value in properties(found).items():
            value.pop("title", None)
            if key in said:
                value["description"] = said[key]
        return found
