"""Reading YAML, the files it is based on, and dotted overrides into one nested mapping that remembers where each key
came from."""

import copy
import re
from collections.abc import Mapping, Sequence
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


Given = Path | Mapping[str, Any]
"""A file, or the keys that one could have."""


@dataclass
class Source:
    """Nested values, and for each dotted key the file and line or the override that gave it."""

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    files: tuple[Path, ...] = ()
    """The files read: the file itself, the one that it is based on, and so forth."""

    def origin(self, key: str) -> str | None:
        """Where `key`, or the nearest section around it, came from."""
        while key not in self.origins and "." in key:
            key = key.rpartition(".")[0]
        return self.origins.get(key)


def read_source(path: Given | None, overrides: Sequence[str]) -> Source:
    """The file's mapping, laid over that of its `base:`, or a mapping as it is, and overrides laid over that; raises
    ConfigError."""
    if isinstance(path, Path):
        source = _read_file(path, ())
    else:
        source = Source(copy.deepcopy(dict(path or {})), dict.fromkeys(path or (), "given"))
    given: dict[str, str] = {}
    for text in overrides:
        key, value = _parse_override(text)
        lost = next((g for g in given if f"{g}.".startswith(f"{key}.")), None)
        if lost is not None:
            raise ConfigError(f"override {text}: {lost} is already given by {given[lost]}; keep one of the two")
        given[key] = text
        _put(source, key, value, text)
    return source


def _read_file(path: Path, above: tuple[Path, ...]) -> Source:
    """`above`: the files that are based on this one."""
    source = _read_yaml(path)
    source.files = (path,)
    where = source.origins.pop("base", None)
    if where is None:
        return source
    named = source.values.pop("base")
    if not isinstance(named, str):
        raise ConfigError(f"base ({where}): expected the file to start from, relative to this one; got {named!r}")
    base, files = path.parent / named, (*above, path)
    if base.resolve() in [file.resolve() for file in files]:
        chain = " is based on ".join(str(file) for file in (*files, base))
        raise ConfigError(f"base ({where}): {chain}; leave one `base` out")
    if not base.is_file():
        raise ConfigError(f"base ({where}): there is no file {base}; name one relative to {path}")
    below = _read_file(base, files)
    _same_job(source, below)
    _lay_over(below.values, source.values, below.origins, "")
    return Source(below.values, below.origins | source.origins, (path, *below.files))


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` laid over `below`, section by section."""
    values = dict(below)
    for key, value in above.items():
        inner = values.get(key)
        values[key] = merged(inner, value) if isinstance(inner, Mapping) and isinstance(value, Mapping) else value
    return values


def _same_job(source: Source, base: Source) -> None:
    mine, other = source.values.get("job"), base.values.get("job")
    if mine is not None and other is not None and mine != other:
        raise ConfigError(
            f"job ({source.origins['job']}): this is a {mine} job, but its base is a {other} job "
            f"({base.origins['job']}); start from a file of the same job"
        )


def _lay_over(values: dict[str, Any], changes: Mapping[str, Any], origins: dict[str, str], prefix: str) -> None:
    """Sections key by key, unless their `kind` is another; all else is replaced. `null` for a section or list takes
    away what the base says there. Origins of what goes go, too."""
    for key, new in changes.items():
        old = values.get(key)
        if isinstance(old, dict) and isinstance(new, dict) and new.get("kind", old.get("kind")) == old.get("kind"):
            values[key] = old = dict(old)  # a copy: an anchor may have put the same section elsewhere
            _lay_over(old, new, origins, f"{prefix}{key}.")
            continue
        for gone in [name for name in origins if f"{name}.".startswith(f"{prefix}{key}.")]:
            del origins[gone]
        if new is None and isinstance(old, dict | list):
            del values[key]
        else:
            values[key] = new


def _read_yaml(path: Path) -> Source:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the configuration file: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: the configuration file is not UTF-8 text: {error}") from error
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
    """Fill `origins` with file:line of each key; refuse repeated keys, keys that are not text, and loops."""
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
