"""The figures of one or several runs as charts, in groups that belong together."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from mmrlhf_ray.reports.charts import Series, line_chart
from mmrlhf_ray.runtime.metric_groups import OTHER, group_of

Metrics = Sequence[Mapping[str, Any]]
"""Rows of metrics.jsonl, as read_metrics() gives them."""

MOST_RUNS = 4
"""Lines that the page's colours tell apart."""
_OWN = ("step", "time")
_HELD_OUT = ("eval_", "eval/", "held_out_", "heldout_")
_HEADINGS: Mapping[str, str] = {
    "reward": "Reward",
    "train": "Learning",
    "policy": "Policy",
    "response": "Responses",
    "critic": "Critic",
    "mismatch": "Sampler against learner",
    "stream": "Stream",
    "timing": "Time",
    "system": "System",
    "eval": "Held out",
    OTHER: "Others",
}
"""Group → what a page calls it, in the order in which they stand. Held-out figures stand with those of training."""
_TITLES: Mapping[str, str] = {
    "loss": "Loss",
    "score": "Score, mean over responses",
    "score_std": "Score, spread over responses",
    "reward": "Score minus the KL term",
    "kl": "KL to the reference, nats a response",
    "kl_coef": "Weight of the KL",
    "approx_kl": "KL of one update",
    "entropy": "Entropy, nats a token",
    "response_tokens": "Length of responses, tokens",
    "unfinished": "Share of responses that were cut off",
    "clip_fraction": "Share of tokens that were clipped",
    "ratio_max": "Largest ratio of one update",
    "grad_norm": "Norm of the gradient",
    "lr": "Learning rate",
    "explained_variance": "Variance of returns that the critic explains",
    "mismatch_mean": "Sampler against learner, nats a token",
    "mismatch_max": "Sampler against learner, largest, nats",
    "staleness_mean": "Age of the batch, versions",
    "seconds_step": "Seconds a step",
    "padding_share": "Share of learned tokens that are padding",
}


@dataclass(frozen=True)
class Section:
    """Charts below one heading."""

    title: str
    charts: tuple[Markup, ...]


def sections(runs: Mapping[str, Metrics]) -> list[Section]:
    """Every metric of the runs, at most MOST_RUNS, as a chart with a line for each run that has it.

    Of a single run, a held-out twin (eval_x next to x) shares the chart of x. Metrics without a finite figure are left
    out. Raises ValueError for more runs.
    """
    if len(runs) > MOST_RUNS:
        raise ValueError(f"runs expects at most {MOST_RUNS}, got {len(runs)}")
    names = dict.fromkeys(name for rows in runs.values() for row in rows for name in row if name not in _OWN)
    bounds = {f"{name}_{end}" for name in names for end in ("low", "high")}  # of intervals, which figures show
    names = {name: None for name in names if name not in bounds}
    charts: dict[str, list[Markup]] = {group: [] for group in _HEADINGS}
    for base, members in _together(list(names), alone=len(runs) == 1).items():
        lines = [
            _series(rows, name, label=_label(run, name, base, len(runs)))
            for run, rows in runs.items()
            for name in members
        ]
        lines = [line for line in lines if any(y is not None and math.isfinite(y) for y in line.y)]
        if lines:
            charts[group_of(_without_prefix(base))].append(line_chart(_title(members, base, lines), lines, "step"))
    return [Section(_HEADINGS[group], tuple(found)) for group, found in charts.items() if found]


def title_of(name: str) -> str:
    """A metric's name in words."""
    base = _without_prefix(name)
    said = _TITLES.get(base, base.replace("_", " ").replace("/", " "))
    return said if base == name else f"{said}, held out"


def _together(names: Sequence[str], alone: bool) -> dict[str, list[str]]:
    """Names that share a chart."""
    found: dict[str, list[str]] = {}
    for name in sorted(names, key=_place):
        found.setdefault(_without_prefix(name) if alone else name, []).append(name)
    return found


def _place(name: str) -> tuple[int, int]:
    """What is explained in _TITLES comes first, in that order."""
    base = _without_prefix(name)
    return (list(_TITLES).index(base) if base in _TITLES else len(_TITLES), len(name) - len(base))


def _label(run: str, name: str, base: str, count: int) -> str:
    return run if count > 1 else "training" if name == base else "held out"


def _title(members: Sequence[str], base: str, lines: Sequence[Series]) -> str:
    title = title_of(base if base in members else members[0])
    if len(lines) > 1:
        return title
    last = next(y for y in reversed(lines[0].y) if y is not None and math.isfinite(y))
    return f"{title}: {last:.4g}".replace("-", "−")


def _series(metrics: Metrics, name: str, label: str) -> Series:
    """Rows without the metric are left out (held-out figures come less often); null breaks the line."""
    rows = [row for row in metrics if name in row]
    return Series(label, [row["step"] for row in rows], [row[name] for row in rows])


def _without_prefix(name: str) -> str:
    for prefix in _HELD_OUT:
        if name.startswith(prefix) and len(name) > len(prefix):
            return name.removeprefix(prefix)
    return name
