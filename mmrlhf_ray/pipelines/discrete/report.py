"""How well decisions hold on cases that were not learned from: discrete.json and report.html, self-contained."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from mmrlhf_ray.algorithms.statistics import Interval, mean_interval, wilson_interval
from mmrlhf_ray.config import DiscreteConfig
from mmrlhf_ray.config.discrete_parts import LocateTask
from mmrlhf_ray.discrete.cases import Cases
from mmrlhf_ray.discrete.decide import Decisions, decide, scores_of
from mmrlhf_ray.discrete.module import DecisionNet
from mmrlhf_ray.discrete.start import EPISODE_REWARD, preferences_of, tensors
from mmrlhf_ray.reports.intervals import Point, interval_chart
from mmrlhf_ray.reports.page import page_environment

SUMMARY_FILE = "discrete.json"
REPORT_FILE = "report.html"
UNDECIDED = "no decision"
_MOST_CLASSES = 40
"""A larger table of confusions would show nothing."""


@dataclass(frozen=True)
class ClassFigures:
    name: str
    cases: int
    precision: float | None
    """None where the class was never decided."""
    recall: float | None
    """None where no case has the class."""
    f1: float


@dataclass(frozen=True)
class Ablation:
    shown: tuple[str, ...]
    score: Interval


@dataclass(frozen=True)
class TaskFigures:
    """Of one task's held-out cases. The score is accuracy, F1 of sets of words, or IoU."""

    task: str
    measure: str
    cases: int
    score: Interval
    macro_f1: float | None
    """Mean of the classes' F1; None where actions are boxes."""
    over_half: Interval | None
    """Share of boxes with an IoU of at least 0.5; None where actions are classes."""
    requests: float
    """Modalities asked for, on average."""
    classes: tuple[ClassFigures, ...]
    confusion: tuple[tuple[int, ...], ...]
    """Row = the right class, column = the decision; the last column counts cases without one."""
    ablations: tuple[Ablation, ...]
    weights: Mapping[str, Mapping[str, float]]
    """"features" and "decisions": modality or view → its share; empty where nothing is weighed."""


def task_figures(cfg: DiscreteConfig, cases: Cases, net: DecisionNet) -> TaskFigures:
    """Decide all of `cases`, with everything shown and with modalities withheld."""
    task = cfg.tasks[cases.task]
    boxes = isinstance(task, LocateTask)
    preferences = preferences_of(net)
    decisions = decide(cfg, cases, preferences)
    scores = scores_of(cases, decisions.actions)
    confusion = _confusion(cases, decisions) if not boxes and len(cases.actions) <= _MOST_CLASSES else ()
    classes = _classes(cases, decisions) if not boxes else ()
    return TaskFigures(
        task=cases.task,
        measure="IoU" if isinstance(task, LocateTask) else task.score,
        cases=len(cases),
        score=interval_of(scores),
        macro_f1=None if boxes else float(np.mean([c.f1 for c in classes if c.cases] or [0.0])),
        over_half=wilson_interval(int((scores >= 0.5).sum()), len(scores)) if boxes else None,
        requests=float(decisions.asked.mean()),
        classes=classes,
        confusion=confusion,
        ablations=tuple(
            Ablation(shown, interval_of(scores_of(cases, decide(cfg, cases, preferences, shown).actions)))
            for shown in _subsets(tuple(cases.columns))
        ),
        weights=net.shares(tensors(cases.observations(np.arange(min(len(cases), 512))))),
    )


def interval_of(scores: np.ndarray) -> Interval:
    """Mean with its 95 % interval: Wilson's where scores are 0 or 1, else a bootstrap."""
    if np.isin(scores, (0.0, 1.0)).all():
        return wilson_interval(int(scores.sum()), len(scores))
    return mean_interval(scores)


def write_report(
    run_dir: Path, cfg: DiscreteConfig, heldout: Sequence[Cases], net: DecisionNet, metrics: Sequence[Mapping[str, Any]]
) -> tuple[TaskFigures, ...]:
    """Write `discrete.json` and `report.html`. metrics: rows of metrics.jsonl, for the learning curves."""
    figures = tuple(task_figures(cfg, cases, net) for cases in heldout)
    environment = page_environment("mmrlhf_ray.pipelines.discrete")
    environment.filters |= {"number": lambda x: "–" if x is None else f"{x:.3f}"}
    page = environment.get_template("report.html.j2").render(
        name=cfg.name,
        algorithm=cfg.algorithm.kind,
        fusion=cfg.fusion,
        figures=[(found, _names(found)) for found in figures],
        charts=_curves(metrics, sum(len(cases) for cases in heldout)),
        sequential=cfg.sequential is not None,
        decisions=cfg.decisions_per_step,
        seconds=metrics[-1]["train_seconds"] if metrics else 0.0,
    )
    _replace(run_dir / SUMMARY_FILE, json.dumps([asdict(found) for found in figures], indent=2))
    _replace(run_dir / REPORT_FILE, page)
    return figures


def headline(figures: Sequence[TaskFigures]) -> str:
    """A line for each task, and one for each ablation."""
    lines = []
    for found in figures:
        lines.append(f"{found.task}: {found.cases} held-out cases, {found.measure} {found.score}")
        lines += [f"  shown {' + '.join(a.shown)}: {a.score}" for a in found.ablations]
    return "\n".join(lines)


def _subsets(names: tuple[str, ...]) -> list[tuple[str, ...]]:
    """All, all but one, and each alone; without repeats."""
    wanted = [names, *(tuple(n for n in names if n != left) for left in names), *((name,) for name in names)]
    return [shown for shown in dict.fromkeys(wanted) if shown]


def _confusion(cases: Cases, decisions: Decisions) -> tuple[tuple[int, ...], ...]:
    size = len(cases.actions)
    counts = np.zeros((size, size + 1), np.int64)
    # Without a decision the action is −1, which is the last column.
    np.add.at(counts, (cases.labels, decisions.actions), 1)
    return tuple(tuple(int(n) for n in row) for row in counts)


def _classes(cases: Cases, decisions: Decisions) -> tuple[ClassFigures, ...]:
    found = []
    for number, name in enumerate(cases.actions):
        true, said = cases.labels == number, decisions.actions == number
        both = int((true & said).sum())
        found.append(
            ClassFigures(
                name,
                int(true.sum()),
                both / int(said.sum()) if said.any() else None,
                both / int(true.sum()) if true.any() else None,
                2 * both / int(true.sum() + said.sum()) if true.any() or said.any() else 0.0,
            )
        )
    return tuple(found)


def _names(found: TaskFigures) -> list[str]:
    return [*(c.name for c in found.classes), UNDECIDED]


def _curves(metrics: Sequence[Mapping[str, Any]], cases: int) -> list[Markup]:
    charts = []
    measured = [(row["step"] + 1, row["heldout_score"]) for row in metrics if row.get("heldout_score") is not None]
    if measured:
        points = [Point(float(step), wilson_interval(score * cases, cases)) for step, score in measured]
        charts.append(interval_chart("Held-out score", points, "step"))
    rewards = [(row["step"] + 1, row[EPISODE_REWARD]) for row in metrics if row.get(EPISODE_REWARD) is not None]
    if rewards:
        points = [Point(float(step), Interval(value, value, value)) for step, value in rewards]
        charts.append(interval_chart("Mean reward of an episode", points, "step"))
    return charts


def _replace(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
