"""Runs next to each other: what was set differently, and where their figures ended."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from mmrlhf_ray.pipelines.runs.figures import Figure
from mmrlhf_ray.pipelines.runs.read import Run

_WHERE = frozenset({"name", "output_dir", "work_dir"})
_NOT_GIVEN = "–"


@dataclass(frozen=True)
class Setting:
    """One key that is not the same in all runs."""

    key: str
    values: tuple[str, ...]
    """Of each run."""


@dataclass(frozen=True)
class Row:
    """One figure of all runs."""

    name: str
    figures: tuple[Figure | None, ...]


def different_settings(runs: Sequence[Run]) -> list[Setting]:
    """Keys that differ, with dots; entries of a list go by their `name`, where they have one."""
    flat = [_flat(run.config) for run in runs]
    keys = dict.fromkeys(key for settings in flat for key in settings)
    found = [Setting(key, tuple(settings.get(key, _NOT_GIVEN) for settings in flat)) for key in keys]
    return [one for one in found if one.key not in _WHERE and len(set(one.values)) > 1]


def figure_rows(runs: Sequence[Run]) -> list[Row]:
    """The runs' last figures by name."""
    known = [{figure.name: figure for figure in run.figures} for run in runs]
    names = dict.fromkeys(name for figures in known for name in figures)
    return [Row(name, tuple(figures.get(name) for figures in known)) for name in names]


def labels(runs: Sequence[Run]) -> list[str]:
    """A short name for each run, different from the others'."""
    for depth in range(1, 1 + max(len(run.path.resolve().parts) for run in runs)):
        names = ["/".join(run.path.resolve().parts[-depth:]) for run in runs]
        if len(set(names)) == len(names):
            return names
    return [f"{run.name} ({number})" for number, run in enumerate(runs, start=1)]  # one run twice


def _flat(value: Any, key: str = "") -> dict[str, str]:
    if isinstance(value, list) and value and all(isinstance(one, Mapping) for one in value):
        value = {str(one.get("name", number)): one for number, one in enumerate(value)}
    if isinstance(value, Mapping) and value:
        return {
            below: text
            for name, one in value.items()
            for below, text in _flat(one, f"{key}.{name}" if key else str(name)).items()
        }
    return {key: yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True).split("\n")[0]}
