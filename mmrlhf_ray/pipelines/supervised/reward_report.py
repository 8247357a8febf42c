"""How well a reward model agrees with people it did not learn from: figures, reward_model.json and report.html."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mmrlhf_ray.algorithms.calibration import Calibration, pair_calibration
from mmrlhf_ray.algorithms.statistics import Interval, wilson_interval
from mmrlhf_ray.reports.page import page_environment
from mmrlhf_ray.reports.reliability import reliability_chart
from mmrlhf_ray.schema import EVAL_SCORE, check
from mmrlhf_ray.training.supervised import EVAL_SCORES_FILE

SUMMARY_FILE = "reward_model.json"
REPORT_FILE = "report.html"
TERCILES = ("lowest third", "middle third", "highest third")


@dataclass(frozen=True)
class Pair:
    """Two responses to one prompt of which people prefer one."""

    task: str
    modality: str
    difference: float
    """Score of the preferred response − score of the other."""
    uncertainty: float
    """Standard deviation of that difference over the members of the ensemble."""


@dataclass(frozen=True)
class Agreement:
    """Pairs in which the model prefers what people prefer; equal scores count one half."""

    pairs: int
    accuracy: Interval
    calibration: Calibration | None
    """Of σ(difference); None where scores are ratings, whose differences are no log odds."""


@dataclass(frozen=True)
class Scaled:
    """A judge's scores as log odds of what people prefer (Platt scaling without an offset, since the sides of a pair
    can be exchanged). Each half of the prompts has the factor that was fitted to the other."""

    factors: tuple[float, float]
    """Log odds of one unit of the judge's score, as fitted to each half."""
    calibration: Calibration
    """Of σ(factor · difference) over all pairs."""


@dataclass(frozen=True)
class JudgeAgreement:
    """A judge on the pairs that the model was measured on."""

    agreement: Agreement | None
    """None without any pair that it answered."""
    unanswered: int
    """Pairs that it gave no score of; they are in no figure."""
    side_changes: float | None
    """Of a judge that compares: the share of comparisons in which swapped sides had another winner."""
    scaled: Scaled | None = None
    """None where a half of the prompts has too few pairs to fit to."""


@dataclass(frozen=True)
class AspectError:
    """Of the ratings of one aspect, in its own units."""

    ratings: int
    mean_absolute: float
    root_mean_square: float
    spread: float
    """Standard deviation of the ratings: the root mean square error of always saying their mean."""


@dataclass(frozen=True)
class RewardSummary:
    """Held-out figures of a reward model."""

    objective: str
    rows: int
    responses: int
    overall: Agreement | None
    """None without any pair."""
    by_task: Mapping[str, Agreement]
    by_modality: Mapping[str, Agreement]
    by_uncertainty: Mapping[str, Agreement]
    """Thirds of the pairs by uncertainty; empty without an ensemble."""
    aspects: Mapping[str, AspectError]
    judges: Mapping[str, JudgeAgreement] = field(default_factory=dict)


def pairs_of(scores: pa.Table) -> list[Pair]:
    """Every two responses to one prompt that people ranked differently, of an EVAL_SCORE table."""
    rows: dict[int, list[dict[str, Any]]] = {}
    for response in check(scores, EVAL_SCORE, "pairs_of").to_pylist():
        if response["rank"]:
            rows.setdefault(response["row"], []).append(response)
    pairs = []
    for responses in rows.values():
        for better, worse in combinations(sorted(responses, key=lambda r: r["rank"]), 2):
            if better["rank"] < worse["rank"]:
                by_member = np.subtract(better["members"], worse["members"], dtype=np.float64)
                difference = better["score"] - worse["score"]
                pairs.append(Pair(better["task"], better["modality"], difference, float(by_member.std())))
    return pairs


def summarise(scores: pa.Table, objective: str, aspects: Sequence[str]) -> RewardSummary:
    """Figures of an EVAL_SCORE table whose `aspects` and `ratings` are in the order of `aspects`."""
    pairs, log_odds = pairs_of(scores), objective != "rating"
    members = scores.column("members")[0].as_py() if len(scores) else []
    return RewardSummary(
        objective=objective,
        rows=len(set(scores.column("row").to_pylist())),
        responses=len(scores),
        overall=agreement(pairs, log_odds) if pairs else None,
        by_task=_grouped(pairs, lambda pair: pair.task, log_odds),
        by_modality=_grouped(pairs, lambda pair: pair.modality, log_odds),
        by_uncertainty=_thirds(pairs, log_odds) if len(members) > 1 else {},
        aspects=_aspect_errors(scores, aspects),
    )


def write_report(
    run_dir: Path,
    name: str,
    objective: str,
    aspects: Sequence[str],
    scores: pa.Table | None = None,
    judges: Mapping[str, JudgeAgreement] | None = None,
) -> RewardSummary:
    """Write `reward_model.json` and `report.html` of `scores`, by default those of `<run_dir>/eval_scores.parquet`."""
    if scores is None:
        scores = pq.read_table(run_dir / EVAL_SCORES_FILE, schema=EVAL_SCORE)
    summary = replace(summarise(scores, objective, aspects), judges=judges or {})
    environment = page_environment("mmrlhf_ray.pipelines.supervised")
    environment.filters |= {"number": lambda x: f"{x:.3f}"}
    calibration = summary.overall and summary.overall.calibration
    page = environment.get_template("reward_report.html.j2").render(
        name=name,
        summary=summary,
        chart=reliability_chart(calibration.bins) if calibration else None,
        judge_charts={
            name: reliability_chart(found.scaled.calibration.bins)
            for name, found in summary.judges.items()
            if found.scaled
        },
        breakdowns=[(label, groups) for label, groups in _breakdowns(summary) if groups],
    )
    _replace(run_dir / SUMMARY_FILE, json.dumps(asdict(summary), indent=2))
    _replace(run_dir / REPORT_FILE, page)
    return summary


def headline(summary: RewardSummary) -> str:
    """The figures that matter most, a line each."""
    lines = []
    if summary.overall:
        overall = summary.overall
        said = f"{overall.pairs} held-out pairs: pair accuracy {overall.accuracy}"
        if overall.calibration:
            error, brier = overall.calibration.expected_calibration_error, overall.calibration.brier
            said += f", calibration error {error:.3f}, Brier {brier:.3f}"
        lines.append(said)
    lines += [judge_line(name, found) for name, found in summary.judges.items()]
    lines += [
        f"uncertainty, {third}: pair accuracy {found.accuracy}" for third, found in summary.by_uncertainty.items()
    ]
    lines += [
        f"{aspect}: mean absolute error {error.mean_absolute:.3f} over {error.ratings} ratings"
        for aspect, error in summary.aspects.items()
    ]
    return "\n".join(lines) or f"{summary.responses} held-out responses: no two of one prompt are ranked differently"


def judge_line(name: str, found: JudgeAgreement) -> str:
    """A judge's figures in a line."""
    if found.agreement is None:
        return f"judge {name}: no score for any of {found.unanswered} pairs"
    said = f"judge {name}: pair accuracy {found.agreement.accuracy} on {found.agreement.pairs} of them"
    said += f", {found.unanswered} without an answer" if found.unanswered else ""
    said += f", {found.side_changes:.3f} change with the sides" if found.side_changes is not None else ""
    if found.scaled is None:
        return said
    error, brier = found.scaled.calibration.expected_calibration_error, found.scaled.calibration.brier
    return f"{said}; scaled: calibration error {error:.3f}, Brier {brier:.3f}"


def agreement(pairs: Sequence[Pair], log_odds: bool) -> Agreement:
    """`log_odds`: whether differences of scores are these, so that calibration means something."""
    differences = np.array([pair.difference for pair in pairs])
    right = float((0.5 * (np.sign(differences) + 1.0)).sum())
    calibration = pair_calibration(differences) if log_odds else None
    return Agreement(len(pairs), wilson_interval(right, len(pairs)), calibration)


def _grouped(pairs: Sequence[Pair], key: Callable[[Pair], str], log_odds: bool) -> dict[str, Agreement]:
    groups: dict[str, list[Pair]] = {}
    for pair in pairs:
        groups.setdefault(key(pair), []).append(pair)
    return {name: agreement(groups[name], log_odds) for name in sorted(groups)}


def _thirds(pairs: Sequence[Pair], log_odds: bool) -> dict[str, Agreement]:
    order = np.argsort([pair.uncertainty for pair in pairs], kind="stable")
    thirds = zip(TERCILES, np.array_split(order, len(TERCILES)), strict=True)
    return {name: agreement([pairs[i] for i in third], log_odds) for name, third in thirds if len(third)}


def _aspect_errors(scores: pa.Table, aspects: Sequence[str]) -> dict[str, AspectError]:
    said, wanted = (np.array(scores.column(n).to_pylist(), np.float64) for n in ("aspects", "ratings"))
    errors = {}
    for number, aspect in enumerate(aspects):
        rated = ~np.isnan(wanted[:, number])
        if rated.any():
            ratings = wanted[rated, number]
            error = said[rated, number] - ratings
            errors[aspect] = AspectError(
                int(rated.sum()),
                float(np.abs(error).mean()),
                float(np.sqrt(np.square(error).mean())),
                float(ratings.std()),
            )
    return errors


def _breakdowns(summary: RewardSummary) -> list[tuple[str, Mapping[str, Agreement]]]:
    return [
        ("task", summary.by_task),
        ("modality", summary.by_modality),
        ("uncertainty of the ensemble", summary.by_uncertainty),
    ]


def _replace(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
