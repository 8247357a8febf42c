"""From YAML and dotted overrides to a checked configuration, and back."""

import copy
import difflib
import json
import os
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from mmrlhf_ray.config.base import RunConfig
from mmrlhf_ray.config.discrete import DiscreteConfig
from mmrlhf_ray.config.iterate import IterateConfig
from mmrlhf_ray.config.jobs import (
    EvaluateConfig,
    PPOConfig,
    PreferenceConfig,
    ProbeRewardConfig,
    RewardModelConfig,
    SFTConfig,
)
from mmrlhf_ray.config.source import Source, read_source
from mmrlhf_ray.errors import ConfigError

C = TypeVar("C", bound=BaseModel)


class JobKind(StrEnum):
    """The value of a file's `job:` key, which is also the `mmrlhf` command that runs it."""

    SFT = "sft"
    REWARD_MODEL = "reward-model"
    PREFERENCE = "preference"
    PROBE_REWARD = "probe-reward"
    PPO = "ppo"
    EVALUATE = "evaluate"
    ITERATE = "iterate"
    DISCRETE = "discrete"

    @property
    def config(self) -> type[RunConfig]:
        """The configuration class of the job."""
        return _CONFIGS[self]


_CONFIGS: dict[JobKind, type[RunConfig]] = {
    JobKind.SFT: SFTConfig,
    JobKind.REWARD_MODEL: RewardModelConfig,
    JobKind.PREFERENCE: PreferenceConfig,
    JobKind.PROBE_REWARD: ProbeRewardConfig,
    JobKind.PPO: PPOConfig,
    JobKind.EVALUATE: EvaluateConfig,
    JobKind.ITERATE: IterateConfig,
    JobKind.DISCRETE: DiscreteConfig,
}
_KINDS: dict[type[BaseModel], JobKind] = {config: kind for kind, config in _CONFIGS.items()}


def load_config(path: Path | None, overrides: Sequence[str], kind: type[C]) -> C:
    """Read `path`, lay `overrides` (`algorithm.kl_coef=0.05`, values in YAML) over it, and check it as `kind`.

    Types are checked strictly: text is not a number. The optional top-level `job:` of the file must agree with `kind`.
    Raises ConfigError with every problem of the configuration in one message.
    """
    source = read_source(path, overrides)
    _take_job(source, _KINDS.get(kind))
    values, problems = source.values, []
    while True:
        try:
            # Through JSON: strict about types, yet a YAML list may fill a tuple.
            cfg = kind.model_validate_json(json.dumps(values, default=str), strict=True)
            break
        except ValidationError as error:
            details = [_untagged(detail, source.values) for detail in error.errors(include_url=False)]
        problems += [_problem(detail, source, kind) for detail in details]
        unknown = [detail["loc"] for detail in details if detail["type"] == "extra_forbidden"]
        if len(unknown) < len(details):
            break
        # Only unknown keys so far: leave them out and look again, for contradictions between the others.
        values = copy.deepcopy(values)
        for loc in unknown:
            _drop(values, loc)
    if problems:
        where = str(path) if path is not None else "the overrides"
        count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
        raise ConfigError("\n  ".join([f"{count} in the configuration from {where}:", *problems]))
    return cfg


def read_job_kind(path: Path) -> JobKind:
    """The value of the file's top-level `job:` key; raises ConfigError when it is missing or unknown."""
    source = read_source(path, ())
    kind = _take_job(source, None)
    if kind is None:
        raise ConfigError(f"{path}: expected a top-level `job:` key, one of {_names(JobKind)}")
    return kind


def save_config(cfg: RunConfig, path: Path) -> None:
    """Write `cfg`, every default spelled out, as a YAML file that `load_config` reads back; replaces atomically."""
    kind = _KINDS.get(type(cfg))
    values = ({} if kind is None else {"job": kind.value}) | cfg.model_dump(mode="json")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), encoding="utf-8")
    os.replace(partial, path)


def dotted_keys(kind: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every key of a configuration class, sections and values, as `section.key`; the user's own names are `*`."""
    for name, info in kind.model_fields.items():
        yield prefix + name
        below: dict[str, None] = {}
        for step, section in _sections(info.annotation):
            below |= dict.fromkeys(dotted_keys(section, f"{prefix}{name}.{step}"))
        yield from below


def _take_job(source: Source, expected: JobKind | None) -> JobKind | None:
    where = source.origins.get("job")
    if where is None or where.startswith("override "):
        return None
    value = source.values.pop("job")
    if value not in set(JobKind):
        raise ConfigError(f"job ({where}): expected one of {_names(JobKind)}, got {value!r}")
    kind = JobKind(value)
    if expected is not None and kind is not expected:
        raise ConfigError(f"job ({where}): this is a {kind} job, not {expected}; run it with `mmrlhf {kind}`")
    return kind


def _sections(annotation: Any) -> Iterator[tuple[str, type[BaseModel]]]:
    """The section classes in an annotation `X`, `X | Y` or `dict[str, X]`, with what stands before their keys."""
    if typing.get_origin(annotation) is typing.Annotated:
        annotation = typing.get_args(annotation)[0]
    if typing.get_origin(annotation) is dict:
        yield from (("*." + step, section) for step, section in _sections(typing.get_args(annotation)[1]))
        return
    options = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    yield from (("", option) for option in options if isinstance(option, type) and issubclass(option, BaseModel))


def _problem(detail: ErrorDetails, source: Source, kind: type[BaseModel]) -> str:
    key = ".".join(str(part) for part in detail["loc"])
    origin = source.origin(key) if key else None
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


def _untagged(detail: ErrorDetails, values: dict[str, Any]) -> ErrorDetails:
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


def _drop(values: dict[str, Any], loc: Sequence[int | str]) -> None:
    for part in loc[:-1]:
        values = values[part]  # type: ignore[index]
    del values[loc[-1]]  # type: ignore[arg-type]


def _names(kinds: type[JobKind]) -> str:
    return ", ".join(kinds)
