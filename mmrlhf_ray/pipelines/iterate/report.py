"""The results of a loop, as iterate.json, report.html and lines for the terminal."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mmrlhf_ray.algorithms.statistics import Interval
from mmrlhf_ray.config.iterate import IterateConfig
from mmrlhf_ray.config.rounds import policy_after
from mmrlhf_ray.pipelines.iterate.state import SECONDS, Done, IterateState, Verdict, improved, stages_of
from mmrlhf_ray.reports.intervals import Point, interval_chart
from mmrlhf_ray.reports.page import page_environment

SUMMARY_FILE = "iterate.json"
REPORT_FILE = "report.html"


@dataclass(frozen=True)
class RoundSummary:
    """One complete round; round 0 is the policy as it came. Intervals are 95 %; None = does not exist."""

    number: int
    selection: str
    """How the round's questions were chosen; "" in round 0."""
    asked: int
    """Questions that the round added."""
    candidates: int
    """Pairs that they were chosen from: where they are as many, there was nothing to choose."""
    votes: int
    """Of all rounds so far, reviewers' decisions not counted."""
    items: int
    """Questions of all rounds so far that have a vote."""
    preferences: int
    """Those that the round's training could use, without held-out ones."""
    agreed: Interval | None
    """Share of comparisons in which two annotators said the same."""
    alpha: Interval | None
    """Krippendorff's α."""
    pair_accuracy: Interval | None
    """Of the reward model on pairs that people judged and it did not learn from."""
    reward_model_pairs: Interval | None
    """How often it prefers what the primary reward prefers, of the policy's answers to held-out prompts."""
    primary: Interval | None
    gain: Interval | None
    """Primary reward after the round − before, paired by prompt."""
    gain_since_start: Interval | None
    """After the round − before the first, paired by prompt."""
    kl: float | None
    """Nats per response to the policy that the loop started with."""
    response_tokens: float
    minutes: Mapping[str, float]
    """By stage; of a stage that was interrupted, its last run."""


@dataclass(frozen=True)
class Summary:
    """Everything that is told of a loop."""

    name: str
    metric: str
    comparable: bool
    """Whether primary rewards of different rounds may be compared."""
    rounds: tuple[RoundSummary, ...]
    stopped: bool
    reason: str
    best_round: int
    """The last round that improved on the one before; 0 where none did."""
    best_policy: str


def summarise(state: IterateState, cfg: IterateConfig, verdict: Verdict, run_dir: Path, metric: str) -> Summary:
    """Figures of the complete rounds."""
    rounds = tuple(_round(number, done) for number, done in enumerate(state.whole))
    best = max((n for n, done in enumerate(state.whole) if n and improved(done, cfg)), default=0)
    return Summary(
        name=cfg.name,
        metric=metric,
        comparable=bool(cfg.evaluate.rewards),
        rounds=rounds,
        stopped=verdict.stopped,
        reason=verdict.reason,
        best_round=best,
        best_policy=policy_after(cfg, run_dir, best).path,
    )


def _round(number: int, done: Done) -> RoundSummary:
    evaluated, labelled = done["evaluate"], done.get("labels", {})
    return RoundSummary(
        number=number,
        selection=done.get("select", {}).get("selection", ""),
        asked=done.get("select", {}).get("pairs", 0),
        candidates=done.get("select", {}).get("candidates", 0),
        votes=labelled.get("votes", 0),
        items=labelled.get("items", 0),
        preferences=labelled.get("preferences", 0),
        agreed=_interval(labelled.get("agreed")),
        alpha=_interval(labelled.get("alpha")),
        pair_accuracy=_interval(done.get("reward_model", {}).get("pair_accuracy")),
        reward_model_pairs=_interval(evaluated.get("reward_model_pairs")),
        primary=_interval(evaluated["primary"]),
        gain=_interval(evaluated["gain"]),
        gain_since_start=_interval(evaluated["gain_since_start"]),
        kl=evaluated.get("kl"),
        response_tokens=evaluated["response_tokens"],
        minutes={stage: done[stage][SECONDS] / 60 for stage in stages_of(number)},
    )


def _interval(said: Mapping[str, float] | None) -> Interval | None:
    return None if said is None else Interval(**said)


def write_report(run_dir: Path, summary: Summary) -> Path:
    """Write iterate.json and report.html; returns the page."""
    environment = page_environment("mmrlhf_ray.pipelines.iterate")
    environment.filters |= {"interval": interval_text, "signed": signed_text, "number": _number}
    points = [Point(float(r.votes), r.primary) for r in summary.rounds if r.primary is not None]
    chart = None
    if points and summary.comparable:
        chart = interval_chart(f"{summary.metric} on held-out prompts, 95 % intervals", points, "votes")
    page = environment.get_template("report.html.j2").render(summary=summary, chart=chart)
    _replace(run_dir / SUMMARY_FILE, json.dumps(asdict(summary), indent=2, ensure_ascii=False))
    _replace(run_dir / REPORT_FILE, page)
    return run_dir / REPORT_FILE


def lines(summary: Summary) -> list[str]:
    """For the terminal."""
    said = []
    for r in summary.rounds:
        parts = [f"round {r.number}", f"{r.votes} votes", f"{summary.metric} {interval_text(r.primary)}"]
        parts += [f"gain {signed_text(r.gain)}"] if r.gain else []
        parts += [f"pair accuracy {interval_text(r.pair_accuracy)}"] if r.pair_accuracy else []
        said.append("  ".join(parts))
    since = summary.rounds[-1].gain_since_start
    said += [f"since the start: {signed_text(since)}"] if since else []
    said += [f"stopped: {summary.reason}"] if summary.stopped else []
    return [*said, f"best policy (round {summary.best_round}): {summary.best_policy}"]


def interval_text(interval: Interval | None) -> str:
    return "–" if interval is None else str(interval)


def signed_text(interval: Interval | None) -> str:
    return "–" if interval is None else f"{interval:+.3f}"


def _number(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _replace(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def read_summary(run_dir: Path) -> dict[str, Any]:
    """iterate.json of a run."""
    said: dict[str, Any] = json.loads((run_dir / SUMMARY_FILE).read_text(encoding="utf-8"))
    return said
