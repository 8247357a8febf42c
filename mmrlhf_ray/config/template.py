"""Commented job files that a user can start from: `mmrlhf config JOB`."""

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from mmrlhf_ray.config.described import REF, Schema, describe, meaning, properties, required, sections_of
from mmrlhf_ray.config.examples import example
from mmrlhf_ray.config.feedback import FeedbackConfig
from mmrlhf_ray.config.load import JobKind

_WIDTH = 100
_LEFT_OUT = object()


def template(job: JobKind | None, values: Mapping[str, Any], head: str, full: bool) -> str:
    """A file with `values` and the meaning of each key; with `full`, every key that there is. job: None = the file of
    `mmrlhf feedback serve`. head: its first lines, without `#`."""
    schema = describe(FeedbackConfig if job is None else job.config)
    lines = [f"# {line}".rstrip() for line in head.splitlines()]
    lines += [] if job is None else [f"job: {job}"]
    lines += _Template(schema.get("$defs", {}), full).section(schema, values)
    return "\n".join(lines) + "\n"


def job_template(name: str, full: bool) -> str:
    """The file of a job or of an algorithm by one of its names."""
    start = example(name)
    return template(start.job, start.values, start.head, full)


class _Template:
    def __init__(self, sections: Mapping[str, Schema], full: bool) -> None:
        self._sections, self._full = sections, full
        self._shown: set[str] = set()

    def section(self, schema: Schema, values: Mapping[str, Any]) -> Iterator[str]:
        """The keys of a section that have a value, each below its meaning; with `full` all others, too."""
        nodes = properties(schema)
        for key in [*(k for k in values if k in nodes), *(k for k in nodes if k not in values)]:
            node = nodes[key]
            value = values.get(key, _LEFT_OUT)
            if value is _LEFT_OUT and (not self._full or key in required(schema)):
                continue
            if value is _LEFT_OUT:
                value = node.get("default", {})
            yield from self._key(key, node, value)

    def _key(self, key: str, node: Schema, value: Any) -> Iterator[str]:
        said = meaning(node, self._sections)
        yield from textwrap.wrap(said, _WIDTH, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)
        inner = self._of(node, value)
        if inner is not None and isinstance(value, dict) and (value or self._full):
            yield f"{key}:"
            yield from _indented(self.section(inner, value))
        elif value and "patternProperties" in node:
            yield f"{key}:"
            (named,) = node["patternProperties"].values()
            for name, element in value.items():
                yield f"  {name}:"
                yield from _indented(_indented(self._element(named, element)))
        elif value and any(sections_of(node.get("items", {}))):
            yield f"{key}:"
            for element in value:
                yield from _as_item(self._element(node["items"], element))
        else:
            yield f"{key}: {_flow(value)}"
            if value is None and self._full:
                yield from self._instead(key, node)

    def _element(self, node: Schema, element: dict[str, Any]) -> Iterator[str]:
        """One of a list of sections or of those with names."""
        inner = self._of(node, element)
        assert inner is not None, element
        return self.section(inner, element)

    def _instead(self, key: str, node: Schema) -> Iterator[str]:
        """What may stand in the place of null: a section, commented out; each is shown once."""
        for name in sections_of(node):
            if name in self._shown:
                continue
            self._shown.add(name)
            inner = self._sections[name]
            yield f"# {key}:"
            for line in _indented(self.section(inner, _needed(inner))):
                yield f"# {line}"

    def _of(self, node: Schema, value: Any) -> Schema | None:
        """The section that a value is one of."""
        names = list(sections_of(node))
        kind = value.get("kind") if isinstance(value, dict) else None
        for name in names:
            tag = self._sections[name].get("properties", {}).get("kind", {})
            if "oneOf" not in node or kind in tag.get("enum", [tag.get("const", tag.get("default"))]):
                return self._sections[name]
        return None


def _needed(section: Schema) -> Mapping[str, Any]:
    """What a section must have, for a place in which nothing is loaded."""
    return {key: _stand_in(properties(section)[key]) for key in required(section)}


def _stand_in(node: Schema) -> Any:
    if REF in node.get("$ref", ""):
        return {}
    return {"integer": 1, "number": 1.0, "array": [], "object": {}}.get(node.get("type", ""), "…")


def _indented(lines: Iterator[str]) -> Iterator[str]:
    return (f"  {line}" for line in lines)


def _as_item(lines: Iterator[str]) -> Iterator[str]:
    """As an element of a list: the comment of its first key stands above the dash."""
    started = False
    for line in lines:
        if started or line.startswith("#"):
            yield f"    {line}"
        else:
            yield f"  - {line}"
            started = True


def _flow(value: Any) -> str:
    """A value on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10_000, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...").strip()
