"""From YAML and dotted overrides to a checked configuration, and back."""

import copy
import json
import os
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from mmrlhf_ray.config.aliases import ALIASES, apply
from mmrlhf_ray.config.base import RunConfig
from mmrlhf_ray.config.behaviour import BehaviourConfig
from mmrlhf_ray.config.discrete import DiscreteConfig
from mmrlhf_ray.config.iterate import IterateConfig
from mmrlhf_ray.config.judging import EvaluateConfig, ProbeRewardConfig
from mmrlhf_ray.config.online import PPOConfig
from mmrlhf_ray.config.paths import ROOT
from mmrlhf_ray.config.problems import problem, untagged
from mmrlhf_ray.config.source import Given, Source, read_source
from mmrlhf_ray.config.supervised import PreferenceConfig, RewardModelConfig, SFTConfig
from mmrlhf_ray.errors import ConfigError

C = TypeVar("C", bound=BaseModel)
_AUTO = "auto"


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
    BEHAVIOUR = "behaviour"

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
    JobKind.BEHAVIOUR: BehaviourConfig,
}
_KINDS: dict[type[BaseModel], JobKind] = {config: kind for kind, config in _CONFIGS.items()}


def load_config(
    path: Given | None, overrides: Sequence[str], kind: type[C], root: Path | None = None, algorithm: str | None = None
) -> C:
    """Read `path`, or take the mapping in its place, lay `overrides` (`algorithm.kl_coef=0.05`, values in YAML) over
    it, and check it as `kind`.

    Types are checked strictly: text is not a number. The optional top-level `job:` of the file must agree with `kind`.
    Relative paths are taken from `root`, by default the current directory. algorithm: a key of ALIASES, whose recipe
    lies below the file, which may not name another algorithm.
    Raises ConfigError with every problem of the configuration in one message.
    """
    source = read_source(path, overrides)
    _take_job(source, _KINDS.get(kind))
    if algorithm is not None:
        apply(algorithm, source)
    _leave_open(source, kind)
    values, problems = source.values, []
    while True:
        try:
            # Through JSON: strict about types, yet a YAML list may fill a tuple.
            cfg = kind.model_validate_json(json.dumps(values, default=str), strict=True, context={ROOT: root})
            break
        except ValidationError as error:
            details = [untagged(detail, source.values) for detail in error.errors(include_url=False)]
        problems += [problem(detail, kind, source.origin) for detail in details]
        unknown = [detail["loc"] for detail in details if detail["type"] == "extra_forbidden"]
        if len(unknown) < len(details):
            break
        # Only unknown keys so far: leave them out and look again, for contradictions between the others.
        values = copy.deepcopy(values)
        for loc in unknown:
            _drop(values, loc)
    if problems:
        where = str(path) if isinstance(path, Path) else "the overrides" if path is None else "a mapping"
        count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
        raise ConfigError("\n  ".join([f"{count} in the configuration from {where}:", *problems]))
    return cfg


def read_job_kind(path: Given) -> JobKind:
    """The value of the file's, or mapping's, top-level `job:` key; raises ConfigError when it is missing or unknown."""
    source = read_source(path, ())
    kind = _take_job(source, None)
    if kind is None:
        where = path if isinstance(path, Path) else "a mapping"
        raise ConfigError(f"{where}: expected a top-level `job:` key, one of {_names(JobKind)}")
    return kind


def kind_of(cfg: RunConfig) -> str:
    """The `job:` of a configuration."""
    return _KINDS[type(cfg)].value


def save_config(cfg: RunConfig, path: Path) -> None:
    """Write `cfg`, every default spelled out, as a YAML file that `load_config` reads back; replaces atomically."""
    kind = _KINDS.get(type(cfg))
    values = ({} if kind is None else {"job": kind.value}) | cfg.model_dump(mode="json")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), encoding="utf-8")
        os.replace(partial, path)
    except OSError:  # a full disk
        partial.unlink(missing_ok=True)
        raise


def _take_job(source: Source, expected: JobKind | None) -> JobKind | None:
    where = source.origins.get("job")
    if where is None or where.startswith("override "):
        return None
    value = source.values.pop("job")
    if value in ALIASES:
        job = ALIASES[value].job
        means = ", ".join(f"`{key}: {said}`" for key, said in ALIASES[value].means.items())
        raise ConfigError(
            f"job ({where}): {value} is an algorithm of {job} jobs; write `job: {job}` with {means}, or run "
            f"`mmrlhf {value}` on a file with `job: {job}`"
        )
    if value not in set(JobKind):
        raise ConfigError(f"job ({where}): expected one of {_names(JobKind)}, got {value!r}")
    kind = JobKind(value)
    if expected is not None and kind is not expected:
        raise ConfigError(f"job ({where}): this is a {kind} job, not {expected}; run it with `mmrlhf {kind}`")
    return kind


def _leave_open(source: Source, kind: type[BaseModel]) -> None:
    """`placement: auto` says no more than its absence does. Raises ConfigError for other words in its place."""
    said = source.values.get("placement")
    if "placement" not in kind.model_fields or not isinstance(said, str):
        return
    if said != _AUTO:
        raise ConfigError(
            f"placement ({source.origin('placement')}): must be {_AUTO}, or a section that says what each role "
            f"reserves, got {said!r}"
        )
    del source.values["placement"]


def _drop(values: dict[str, Any], loc: Sequence[int | str]) -> None:
    for part in loc[:-1]:
        values = values[part]  # type: ignore[index]
    del values[loc[-1]]  # type: ignore[arg-type]


def _names(kinds: type[JobKind]) -> str:
    return ", ".join(kinds)
