"""Reading YAML and dotted overrides into one nested mapping that remembers where each key came from."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mmrlhf_ray.errors import ConfigError


class _Loader(yaml.SafeLoader):
    """YAML as people write it: `1e-6` is a number (YAML 1.1 wants `1.0e-6`) and dates stay text."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


@dataclass
class Source:
    """Nested values, and for each dotted key the file and line or the override that gave it."""

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)

    def origin(self, key: str) -> str | None:
        """Where `key`, or the nearest section around it, came from."""
        while key not in self.origins and "." in key:
            key = key.rpartition(".")[0]
        return self.origins.get(key)


def read_source(path: Path | None, overrides: Sequence[str]) -> Source:
    """The file's mapping with the overrides laid over it; raises ConfigError."""
    source = Source() if path is None else _read_yaml(path)
    given: dict[str, str] = {}
    for text in overrides:
        key, value = _parse_override(text)
        lost = next((g for g in given if f"{g}.".startswith(f"{key}.")), None)
        if lost is not None:
            raise ConfigError(f"override {text}: {lost} is already given by {given[lost]}; keep one of the two")
        given[key] = text
        _put(source, key, value, text)
    return source


def _read_yaml(path: Path) -> Source:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the configuration file: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: the configuration file is no UTF-8 text: {error}") from error
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return Source()
        if not isinstance(node, yaml.MappingNode):
            raise ConfigError(f"{path}: expected `key: value` lines, got {node.id}")
        origins: dict[str, str] = {}
        _note_lines(node, "", path, origins, ())
        return Source(loader.construct_document(node), origins)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    finally:
        loader.dispose()


def _note_lines(
    node: yaml.Node, prefix: str, path: Path, origins: dict[str, str], around: tuple[yaml.Node, ...]
) -> None:
    """Fill `origins` with file:line of each key; refuse repeated keys, keys that are no text, and loops."""
    if not isinstance(node, yaml.MappingNode):
        return
    if node in around:
        raise ConfigError(f"{path}:{node.start_mark.line + 1}: {prefix.rstrip('.')} refers to itself")
    for key_node, value_node in node.value:
        place = f"{path}:{key_node.start_mark.line + 1}"
        if key_node.tag == "tag:yaml.org,2002:merge":
            continue
        if key_node.tag != "tag:yaml.org,2002:str":
            raise ConfigError(f"{place}: expected a key name, got {getattr(key_node, 'value', key_node.id)!r}")
        key = prefix + key_node.value
        if key in origins:
            raise ConfigError(f"{place}: {key} is already given at {origins[key]}; keep one of the two")
        origins[key] = place
        _note_lines(value_node, key + ".", path, origins, (*around, node))


def _parse_override(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or not all(key.split(".")):
        raise ConfigError(f"override {text!r}: expected key=value, such as algorithm.kl_coef=0.05")
    try:
        return key, yaml.load(value, _Loader)  # the loader is a SafeLoader
    except yaml.YAMLError as error:
        raise ConfigError(f"override {text!r}: the value is not valid YAML; quote it: {key}='\"…\"'") from error


def _put(source: Source, key: str, value: Any, text: str) -> None:
    *sections, leaf = key.split(".")
    values = source.values
    for depth, section in enumerate(sections):
        name = ".".join(sections[: depth + 1])
        inner = values.get(section)
        if inner is None:
            inner = values[section] = {}
            source.origins[name] = f"override {text}"
        if not isinstance(inner, dict):
            where = source.origin(name)
            raise ConfigError(f"override {text}: {name} is the value {inner!r} ({where}), not a section with keys")
        # A copy: sections that a file writes once and refers to again (&name, *name) must not change together.
        values[section] = values = dict(inner)
    values[leaf] = value
    source.origins = {k: v for k, v in source.origins.items() if not k.startswith(key + ".")}
    source.origins[key] = f"override {text}"
