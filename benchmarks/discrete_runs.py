"""Runs of a discrete job with some keys changed, for the tables of docs/discrete.md."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from mmrlhf_ray.algorithms.statistics import Interval
from mmrlhf_ray.config import DiscreteConfig, load_config
from mmrlhf_ray.pipelines.discrete import job as discrete
from mmrlhf_ray.pipelines.discrete.report import SUMMARY_FILE
from mmrlhf_ray.pipelines.discrete.sweep import varied
from mmrlhf_ray.runtime.metrics import read_metrics


@dataclass(frozen=True)
class Outcome:
    """Of one run on the held-out cases of its only task."""

    score: float
    shown: Mapping[str, float]
    """Modalities that are shown, joined by " + " → score."""
    seconds: float
    """Of training."""
    path: Path


def outcome_of(job: Path, name: str, out: Path, changes: Mapping[str, Any], without: Sequence[str] = ()) -> Outcome:
    """Run `job` as `<out>/<name>` with dotted keys changed and modalities left out; a finished run is read again."""
    run_dir = out / name
    if not (run_dir / SUMMARY_FILE).exists():
        cfg = varied(load_config(job, (), DiscreteConfig), changes, name, str(out))
        discrete.run(_without(cfg, without))
    (found,) = json.loads((run_dir / SUMMARY_FILE).read_text(encoding="utf-8"))
    shown = {" + ".join(ablation["shown"]): ablation["score"]["estimate"] for ablation in found["ablations"]}
    return Outcome(found["score"]["estimate"], shown, read_metrics(run_dir)[-1]["train_seconds"], run_dir)


def over_seeds(values: Sequence[float]) -> Interval:
    """Mean with its 95 % interval by Student's t distribution; a point for a single value."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return Interval(mean, mean, mean)
    half = float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return Interval(mean, mean - half, mean + half)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _without(cfg: DiscreteConfig, names: Sequence[str]) -> DiscreteConfig:
    values = cfg.model_dump(mode="json")
    for name in names:
        del values["observation"]["modalities"][name]
    return DiscreteConfig.model_validate_json(json.dumps(values), strict=True)
