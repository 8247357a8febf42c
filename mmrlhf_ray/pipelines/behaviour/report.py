"""What a behaviour became: behaviour.json and report.html with clips, self-contained."""

import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from safetensors.torch import load_file

from mmrlhf_ray.algorithms.statistics import Interval, mean_interval
from mmrlhf_ray.behaviour.annotators import judge_of
from mmrlhf_ray.behaviour.clips import encode, film
from mmrlhf_ray.behaviour.env import RecordedEnv
from mmrlhf_ray.behaviour.episodes import Episode, again, head, read_replays, whole_env
from mmrlhf_ray.behaviour.ledger import PREFERRED, Ledger, Pair, Vote
from mmrlhf_ray.behaviour.reward import RewardEnsemble
from mmrlhf_ray.behaviour.saved import MODULE_DIR, REWARD_FILE
from mmrlhf_ray.behaviour.scripts import Measure
from mmrlhf_ray.behaviour.segments import Recorded, Replay, stacked
from mmrlhf_ray.config import BehaviourConfig
from mmrlhf_ray.reports.charts import Series, line_chart
from mmrlhf_ray.reports.page import page_environment, write_page
from mmrlhf_ray.reports.prompts import data_uri
from mmrlhf_ray.runtime.metrics import read_metrics

SUMMARY_FILE, REPORT_FILE = "behaviour.json", "report.html"
BEFORE_FILE, AFTER_FILE = "episodes-before.json", "episodes-after.json"
_MOST_DISAGREEMENTS = 3


@dataclass(frozen=True)
class BehaviourFigures:
    """Of the same seeds before and after, the policy without chance in its actions."""

    episodes: int
    votes: int
    decisions: int
    true_return: dict[str, Interval]
    """before, after."""
    cost: dict[str, Interval]
    """Mean of a step; before, after."""
    measures: dict[str, dict[str, Interval]]
    """Figure of the measure → before, after."""
    preferred: Interval | None
    """Share of the seeds in which the judge, without noise, prefers the episode after; ties count half. None where
    people judge."""


@dataclass(frozen=True)
class _Clip:
    title: str
    uri: str


def write_report(run_dir: Path, cfg: BehaviourConfig, after: Sequence[Episode]) -> BehaviourFigures:
    """Write both files; the figures. after: the trained policy's episodes, of the seeds of BEFORE_FILE."""
    metrics = read_metrics(run_dir)
    with closing(whole_env(cfg)) as env:
        before = [again(env, replay) for replay in read_replays(run_dir / BEFORE_FILE)]
    figures = _figures(cfg, before, after, metrics)
    with closing(RecordedEnv(cfg, render=True)) as env:
        sides = {"before": before[0], "after": after[0].recorded}
        clips = [_clip(env, cfg, f"{side}, seed {r.replay.seed}", r.replay) for side, r in sides.items()]
        worst = sorted(after, key=lambda episode: episode.true_return)[: cfg.evaluation.worst]
        worst_clips = [_clip(env, cfg, f"return {e.true_return:.3g}, seed {e.replay.seed}", e.replay) for e in worst]
        doubtful = _disagreements(env, cfg, run_dir)
    pages = page_environment("mmrlhf_ray.pipelines.behaviour")
    page = pages.get_template("report.html.j2").render(
        name=cfg.name,
        environment=cfg.environment.id,
        algorithm=cfg.algorithm.kind,
        learn_from=cfg.learn_from,
        figures=figures,
        charts=_charts(metrics),
        clips=clips,
        worst=worst_clips,
        doubtful=doubtful,
    )
    write_page(run_dir / SUMMARY_FILE, json.dumps(asdict(figures), indent=2))
    write_page(run_dir / REPORT_FILE, page)
    return figures


def headline(figures: BehaviourFigures) -> str:
    """What changed, in a few lines."""
    rows = {"true return": figures.true_return, "cost": figures.cost, **figures.measures}
    lines = [f"{figures.episodes} seeds, {figures.votes} votes, {figures.decisions} steps of the environment"]
    lines += [f"{name}: {own['before']} → {own['after']}" for name, own in rows.items()]
    if figures.preferred is not None:
        lines.append(f"preferred to the first policy: {figures.preferred}")
    return "\n".join(lines)


def _figures(
    cfg: BehaviourConfig, before: Sequence[Recorded], after: Sequence[Episode], metrics: Sequence[Mapping[str, Any]]
) -> BehaviourFigures:
    sides = {"before": before, "after": [episode.recorded for episode in after]}
    with closing(Measure(cfg.evaluation.measure, cfg.evaluation.deadline_s)) as measure:
        measured = {side: [measure(r) for r in own] for side, own in sides.items()}
    names = measured["after"][0] if measured["after"] else {}
    last = metrics[-1] if metrics else {}
    return BehaviourFigures(
        episodes=len(after),
        votes=int(last.get("votes", 0)),
        decisions=int(last.get("decisions", 0)),
        true_return={side: _interval([float(r.true_rewards.sum()) for r in own]) for side, own in sides.items()},
        cost={side: _interval([float(r.costs.mean()) for r in own]) for side, own in sides.items()},
        measures={name: {side: _interval([m[name] for m in own]) for side, own in measured.items()} for name in names},
        preferred=_preferred(cfg, before, [episode.recorded for episode in after]),
    )


def _preferred(cfg: BehaviourConfig, before: Sequence[Recorded], after: Sequence[Recorded]) -> Interval | None:
    judge = judge_of(cfg)
    if judge is None:
        return None
    with closing(judge):
        return _interval([PREFERRED[judge(own, first)] for own, first in zip(after, before, strict=True)])


def _interval(values: Sequence[float]) -> Interval:
    if len(values) < 2:
        return Interval(values[0], values[0], values[0])
    return mean_interval(np.array(values))


def _charts(metrics: Sequence[Mapping[str, Any]]) -> list[Markup]:
    by_votes = (
        ("votes", "votes") if any("votes" in row for row in metrics) else ("decisions", "steps of the environment")
    )
    wanted = (
        ("True return, which training does not see", ("true_return",), *by_votes),
        ("Agreement of reward models and votes", ("agreement", "heldout_agreement"), *by_votes),
        ("Cost of a step", ("cost",), "decisions", "steps of the environment"),
        ("Multiplier of the cost", ("multiplier",), "decisions", "steps of the environment"),
    )
    charts = []
    for title, names, x, label in wanted:
        lines = [(name, [row for row in metrics if name in row and x in row]) for name in names]
        series = [Series(name, [r[x] for r in rows], [r[name] for r in rows]) for name, rows in lines if len(rows) > 1]
        if series and any(value for one in series for value in one.y):
            charts.append(line_chart(title, series, label))
    return charts


def _clip(env: RecordedEnv, cfg: BehaviourConfig, title: str, replay: Replay) -> _Clip:
    shown = head(replay, cfg.evaluation.clip_steps) if replay.shown == len(replay.actions) else replay
    return _Clip(title, data_uri("video/webm", encode(film(env, shown), cfg.segments.frames_per_second)))


def _disagreements(env: RecordedEnv, cfg: BehaviourConfig, run_dir: Path) -> list[tuple[str, list[_Clip]]]:
    """The votes that the reward models find least likely, with both clips."""
    if cfg.learn_from != "votes":
        return []
    ledger = Ledger(run_dir)
    ensemble = _ensemble(cfg, run_dir, env)
    votes = [vote for vote in ledger.votes.values() if PREFERRED[vote.choice] != 0.5]
    if not votes:
        return []
    pairs = [ledger.pairs[vote.pair_id] for vote in votes]
    said = ensemble.preferences(stacked([p.first for p in pairs]), stacked([p.second for p in pairs])).mean(0)
    likely = np.where([PREFERRED[vote.choice] == 1.0 for vote in votes], said, 1.0 - said)
    least = np.argsort(likely, kind="stable")[:_MOST_DISAGREEMENTS]
    return [_disagreement(env, cfg, votes[n], pairs[n], float(likely[n])) for n in least if likely[n] < 0.5]


def _disagreement(
    env: RecordedEnv, cfg: BehaviourConfig, vote: Vote, pair: Pair, likely: float
) -> tuple[str, list[_Clip]]:
    said = f"{vote.annotator} voted {vote.choice}; the reward models give that {likely:.3f} (asked in step {pair.step})"
    return said, [_clip(env, cfg, side, replay) for side, replay in zip(("left", "right"), pair.replays, strict=True)]


def _ensemble(cfg: BehaviourConfig, run_dir: Path, env: RecordedEnv) -> RewardEnsemble:
    ensemble = RewardEnsemble(cfg.reward_model, env.observation_space, env.action_space, cfg.seed)
    ensemble.load_state_dict(load_file(run_dir / MODULE_DIR / REWARD_FILE))
    return ensemble
