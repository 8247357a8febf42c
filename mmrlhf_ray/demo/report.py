"""report.html of a demo run: one file with everything in it, no network, no script."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from markupsafe import Markup

from mmrlhf_ray.demo import scoring
from mmrlhf_ray.demo.changes import group_changes, headline, overall_change
from mmrlhf_ray.demo.gallery import gallery
from mmrlhf_ray.demo.scoring import ScoredResponse, score_responses
from mmrlhf_ray.reports.charts import Series, line_chart
from mmrlhf_ray.reports.curves import title_of
from mmrlhf_ray.reports.page import page_environment, write_page
from mmrlhf_ray.runtime.progress import duration

FILE_NAME = "report.html"
GALLERY_SIZE = 28

Metrics = Sequence[Mapping[str, Any]]
"""Rows of metrics.jsonl, as read_metrics() gives them."""

# Metrics that a reader wants first, per stage; the others are folded away below them.
_FIRST = {
    "sft": ("loss",),
    "reward_model": ("pair_accuracy", "accuracy", "loss"),
    "ppo": ("score", "kl", "response_tokens", "value_loss", "entropy", "policy_loss", "kl_coef", "clip_fraction"),
}
_HELD_OUT = ("eval_", "eval/", "held_out_")


@dataclass(frozen=True)
class Setting:
    """What it takes to run it again."""

    seed: int
    command: str
    versions: Mapping[str, str]
    """Package → version."""
    date: str


@dataclass(frozen=True)
class ReportInputs:
    """Inputs of the report. Tables have the schemas in their names; metrics are read_metrics() rows."""

    title: str
    machine: Mapping[str, str]
    """Facts such as cores, memory, device; no host name."""
    setting: Setting
    prompts: pa.Table
    """PROMPT: the held-out prompts."""
    media: pa.Table
    """MEDIA of the held-out prompts."""
    sft: pa.Table
    """RESPONSE of the SFT policy to the held-out prompts."""
    ppo: pa.Table
    """RESPONSE of the PPO policy to the same prompts."""
    swapped: pa.Table
    """RESPONSE of the PPO policy with each prompt's media swapped."""
    rollouts: pa.Table
    """RESPONSE of the policy while it was trained; column `step` is the x of the proxy-gold curve."""
    rollout_prompts: pa.Table
    """PROMPT of the rollouts."""
    sft_metrics: Metrics
    reward_model_metrics: Metrics
    ppo_metrics: Metrics
    durations: Mapping[str, float]
    """Seconds of each stage, in order."""


@dataclass(frozen=True)
class Curves:
    """One section of charts: those to see first, and the rest."""

    title: str
    first: tuple[Markup, ...]
    rest: tuple[Markup, ...]


@dataclass(frozen=True)
class ProxyGold:
    """Means over the rollouts of one step."""

    step: int
    proxy: float
    gold: float
    kl: float


def write_report(run_dir: Path, inputs: ReportInputs) -> Path:
    """Write `<run_dir>/report.html` and return its path.

    Raises DataError where responses and prompts don't belong together, SchemaError for a wrong table.
    """
    verdict = scoring.judge(inputs.prompts, inputs.sft, inputs.ppo, inputs.swapped)
    before, after = score_responses(inputs.sft, inputs.prompts), score_responses(inputs.ppo, inputs.prompts)
    overall = overall_change(before, after)
    splits: Mapping[str, Callable[[ScoredResponse], str]] = {
        "task": lambda response: response.task,
        "modality": lambda response: response.modality,
    }
    breakdowns = {name: group_changes(before, after, key) for name, key in splits.items()}
    environment = page_environment("mmrlhf_ray.demo")
    environment.filters["number"] = scoring.number
    page = environment.get_template("report.html.j2").render(
        title=inputs.title,
        headline=headline(overall, breakdowns["task"]),
        overall=overall,
        machine=inputs.machine,
        setting=inputs.setting,
        durations=[(stage, duration(seconds)) for stage, seconds in inputs.durations.items()],
        total=duration(sum(inputs.durations.values())),
        verdict=verdict,
        columns=(*scoring.COLUMNS, "unfinished"),
        rows=[
            (name, (*scoring.cells(summary.overall), scoring.number(summary.overall.unfinished)))
            for name, summary in scoring.rows(verdict)
        ],
        net=str(verdict.comparison.outcome.net),
        breakdowns=breakdowns,
        sections=_sections(inputs),
        cards=gallery(inputs.prompts, inputs.media, before, after, GALLERY_SIZE),
    )
    path = Path(run_dir) / FILE_NAME
    write_page(path, page)
    return path


def proxy_gold(rollouts: Sequence[ScoredResponse]) -> list[ProxyGold]:
    """Mean reward-model score, gold reward and KL of the rollouts of each step, in order of step."""
    steps: dict[int, list[ScoredResponse]] = {}
    for response in rollouts:
        steps.setdefault(response.step, []).append(response)
    return [
        ProxyGold(
            step,
            _mean([response.score for response in steps[step]]),
            _mean([response.gold.total for response in steps[step]]),
            _mean([response.kl for response in steps[step]]),
        )
        for step in sorted(steps)
    ]


def _sections(inputs: ReportInputs) -> list[Curves]:
    sections = [
        _curves("Supervised fine-tuning", "sft", inputs.sft_metrics),
        _curves("Reward model", "reward_model", inputs.reward_model_metrics),
        _curves("PPO", "ppo", inputs.ppo_metrics),
        Curves("Proxy against gold", _proxy_gold_charts(inputs), ()),
    ]
    return [section for section in sections if section.first or section.rest]


def _proxy_gold_charts(inputs: ReportInputs) -> tuple[Markup, ...]:
    points = proxy_gold(score_responses(inputs.rollouts, inputs.rollout_prompts))
    steps = [point.step for point in points]
    lines = [("reward model (proxy)", [point.proxy for point in points]), ("gold", [point.gold for point in points])]
    charts = [_chart("Reward of the rollouts over steps", [Series(name, steps, y) for name, y in lines], "step")]
    # Gao et al. 2022 plot both against the square root of the KL, the distance walked from the reference.
    order = sorted((p for p in points if math.isfinite(p.kl)), key=lambda p: p.kl)
    distance = [math.sqrt(max(0.0, p.kl)) for p in order]
    lines = [("reward model (proxy)", [p.proxy for p in order]), ("gold", [p.gold for p in order])]
    charts.append(_chart("The same over the distance from SFT", [Series(n, distance, y) for n, y in lines], "√KL"))
    return tuple(chart for chart in charts if chart is not None)


def _curves(title: str, stage: str, metrics: Metrics) -> Curves:
    """Every metric of a stage as a chart; a held-out twin (eval_x next to x) shares the chart of x."""
    names: dict[str, list[str]] = {}
    for name in dict.fromkeys(name for row in metrics for name in row if name not in ("step", "time")):
        names.setdefault(_without_prefix(name), []).append(name)
    charts: dict[str, Markup] = {}
    for base, members in names.items():
        series = [_metric_series(metrics, name, "training" if name == base else "held out") for name in members]
        chart = _chart(title_of(base if base in members else members[0]), series, "step")
        if chart is not None:
            charts[base] = chart
    first = [name for name in _FIRST[stage] if name in charts]
    return Curves(
        title, tuple(charts[name] for name in first), tuple(charts[name] for name in charts if name not in first)
    )


def _metric_series(metrics: Metrics, name: str, label: str) -> Series:
    """Rows without the metric are left out (held-out figures come less often); null breaks the line."""
    rows = [row for row in metrics if name in row]
    return Series(label, [row["step"] for row in rows], [row[name] for row in rows])


def _chart(title: str, series: list[Series], x_label: str) -> Markup | None:
    """None where there is nothing finite to draw, such as a proxy curve of a run without a reward model."""
    drawable = [one for one in series if any(y is not None and math.isfinite(y) for y in one.y)]
    return line_chart(title, drawable, x_label) if drawable else None


def _without_prefix(name: str) -> str:
    for prefix in _HELD_OUT:
        if name.startswith(prefix):
            return name.removeprefix(prefix)
    return name


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
