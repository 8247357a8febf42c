"""docs/configuration.md: every key of every job with its type, default and meaning, made from the configuration
classes. `mmrlhf config --reference` prints it."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from mmrlhf_ray.config.base import RunConfig
from mmrlhf_ray.config.described import REF, Schema, describe, is_tag, meaning, properties, required, sections_of
from mmrlhf_ray.config.feedback import FeedbackConfig
from mmrlhf_ray.config.load import JobKind

HEAD = """# Configuration

Every key of every job, with its type, default and meaning. This page is made from the code by
`mmrlhf config --reference`, and a test holds the two together.

- `mmrlhf config JOB` prints a file to start from, `mmrlhf config JOB --full` one with every key.
- `mmrlhf config JOB --schema > JOB.schema.json` writes a JSON schema, by which an editor completes and checks keys: put
  `# yaml-language-server: $schema=JOB.schema.json` into the first line of the file.
- Two keys are the file's own: `job`, the command that runs it, and `base`, another file to start from
  ([operations.md](operations.md#job-files-and-commands)).
- `list[]` stands for each element of a list, `*` for a name of yours. Paths are files, directories or addresses;
  relative ones are taken from the current directory, or from `--root`.
"""
_TABLE = ("| key | type | default | meaning |", "|---|---|---|---|")


@dataclass
class _Section:
    """A class of sections, and the keys that hold one."""

    schema: Schema
    name: str
    also: list[str] = field(default_factory=list)


class Reference:
    """The page while it is written."""

    def __init__(self) -> None:
        self._sections: dict[str, _Section] = {}
        self._classes: Schema = {}
        self._job = ""

    def text(self) -> str:
        """All of the page."""
        common = set(RunConfig.model_fields)
        run = describe(RunConfig)
        parts = [HEAD, "## Keys of every job", self._table(run, "", common)]
        for job in JobKind:
            schema, self._job = describe(job.config), job.value
            own = set(schema["properties"]) - common
            parts += [f"## `mmrlhf {job}`", schema["description"], self._table(schema, "", own)]
        parts += ["## `mmrlhf feedback serve`", "Of the file that `--config` names."]
        parts.append(self._table(describe(FeedbackConfig), ""))
        parts += ["## Sections"]
        for section in list(self._sections.values()):
            parts += self._described(section)
        return self._linked("\n\n".join(part.strip() for part in parts if part) + "\n")

    def _described(self, section: _Section) -> Iterator[str]:
        """A section, and behind it those that are met in it first."""
        before = set(self._sections)
        table = self._table(section.schema, section.name)
        inner = [found for name, found in self._sections.items() if name not in before]
        yield f"### {section.name}"
        yield _place(section.schema.get("description", ""))
        yield f"<also {section.name}>"
        yield table
        for found in inner:
            yield from self._described(found)

    def _table(self, schema: Schema, around: str, only: set[str] | None = None) -> str:
        self._classes |= schema.get("$defs", {})
        rows = []
        for key, node in properties(schema).items():
            if (only is not None and key not in only) or is_tag(key, node):
                continue
            path = f"{around.partition(',')[0].strip('`')}.{key}".lstrip(".")
            words = self._words(node, path)
            default = "required" if key in required(schema) else self._default(node)
            rows.append(f"| `{key}` | {words} | {default} | {_place(meaning(node, self._classes))} |")
        return "\n".join([*_TABLE, *rows])

    def _default(self, node: Schema) -> str:
        if "default" not in node:
            return "`{}`"
        if "oneOf" in node:
            return f"`{node['default']['kind']}`"
        names = list(sections_of(node))
        if names and node["default"] == _defaults(self._classes[names[0]]):
            return "its defaults"
        return f"`{json.dumps(node['default'], ensure_ascii=False)}`"

    def _words(self, node: Schema, path: str) -> str:
        """The type of a value, in words; a section is linked."""
        if "$ref" in node:
            if not properties(self._classes[node["$ref"].removeprefix(REF)]):
                return "any value"
            return self._link(node["$ref"].removeprefix(REF), path, [])
        if "oneOf" in node:  # sections that `kind` chooses from
            names = list(sections_of({"oneOf": node["oneOf"]}))
            return f"section of kind {', '.join(self._link(name, path, self._kinds(name)) for name in names)}"
        if "anyOf" in node:
            return " or ".join(dict.fromkeys(self._words(option, path) for option in node["anyOf"]))
        if "enum" in node or "const" in node:
            return ", ".join(f"`{_yaml(value)}`" for value in node.get("enum", [node.get("const")]))
        if node.get("type") == "array":
            if "prefixItems" in node:
                return f"list of {len(node['prefixItems'])}: {self._words(node['prefixItems'][0], path)}"
            return f"list of: {self._words(node.get('items', {}), path + '[]')}"
        if node.get("type") == "object":
            inner: Any = node.get("additionalProperties") or next(iter(node.get("patternProperties", {}).values()), {})
            return f"name → {self._words(inner if isinstance(inner, dict) else {}, path + '.*')}"
        return _scalar(node)

    def _link(self, name: str, path: str, kinds: list[str]) -> str:
        """To the section of that class, which is written where it is met first. kinds: values that choose it."""
        chosen = " or ".join(kinds)
        here = f"`{path}`, kind {chosen}" if kinds else f"`{path}`"
        if name not in self._sections:
            taken = here in (section.name for section in self._sections.values())
            self._sections[name] = _Section(self._classes[name], f"{here} of `{self._job}`" if taken else here)
        section = self._sections[name]
        if here not in (section.name.partition(" of ")[0], *section.also):
            section.also.append(here)
        return f"[{chosen or 'section'}](<{name}>)"

    def _kinds(self, name: str) -> list[str]:
        """The values of `kind` that choose the section."""
        kind = self._classes[name]["properties"]["kind"]
        return [f"`{value}`" for value in kind.get("enum", [kind.get("const")])]

    def _linked(self, text: str) -> str:
        """Names of sections as the anchors that their headings get."""
        for name, section in self._sections.items():
            slug = "".join(c for c in section.name.lower() if c.isalnum() or c in " -_").replace(" ", "-")
            text = text.replace(f"(<{name}>)", f"(#{slug})")
            also = f"Also {', '.join(section.also)}.\n\n" if section.also else ""
            text = text.replace(f"<also {section.name}>\n\n", also)
        return text


def _defaults(schema: Schema) -> Schema:
    return {
        key: node.get("default") for key, node in properties(schema).items() if key not in schema.get("required", [])
    }


def _scalar(node: Schema) -> str:
    word = {"string": "text", "boolean": "true or false", "null": "`null`"}.get(node.get("type", ""), node.get("type"))
    if word is None:
        return "any value"
    if node.get("format") == "path":
        return "path"
    if node.get("type") == "integer" and node.get("exclusiveMinimum") == 0:
        return "integer ≥ 1"
    bounds = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    given = [f"{sign} {node[key]:g}" for key, sign in bounds.items() if key in node]
    return " ".join([word, ", ".join(given)]).rstrip()


def _yaml(value: Any) -> str:
    return json.dumps(value) if isinstance(value, bool) else str(value)


def _place(text: str) -> str:
    """As a cell of a table."""
    return text.replace("|", "\\|")


def reference() -> str:
    """The page."""
    return Reference().text()
