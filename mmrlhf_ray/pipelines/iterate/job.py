"""The loop: sample, ask people, learn from their votes, evaluate, and again, until a round no longer improves."""

import sys
from functools import partial
from pathlib import Path

from mmrlhf_ray.config.iterate import IterateConfig
from mmrlhf_ray.pipelines.iterate.metric import metric_of
from mmrlhf_ray.pipelines.iterate.programs import feedback_client
from mmrlhf_ray.pipelines.iterate.report import lines, summarise, write_report
from mmrlhf_ray.pipelines.iterate.stages import Loop, run_stage
from mmrlhf_ray.pipelines.iterate.state import (
    STATE_FILE,
    Figures,
    IterateState,
    advance,
    begin,
    save,
    verdict,
)
from mmrlhf_ray.pipelines.run_dir import run_directory
from mmrlhf_ray.planning.preflight import preflight
from mmrlhf_ray.runtime.session import ray_session


def run(cfg: IterateConfig, resume: bool = False) -> Path:
    """Run rounds until one no longer improves, or all are done; returns the run's directory.

    `resume` goes on after the last stage that was done. Raises RunError where a loop is there already and `resume` is
    not given, and everything that the jobs of its stages raise.
    """
    run_dir = cfg.run_dir
    state = begin(run_dir, cfg, resume)
    with preflight(cfg, run_directory(cfg)) as checked:
        metric = metric_of(cfg, checked.records["evaluate.data"], run_dir)

        def keep(after: IterateState) -> None:
            save(after, run_dir / STATE_FILE)
            if after.whole:
                write_report(run_dir, summarise(after, cfg, verdict(after, cfg), run_dir, metric.name))

        if not verdict(state, cfg).stopped:
            # One Ray for the stages of all rounds, whose own sessions are this one then.
            with ray_session(env=cfg.env), feedback_client(cfg.feedback, run_dir) as client:
                state = advance(
                    state, cfg, partial(_told, Loop(cfg, run_dir, client, metric, checked.records["prompts"])), keep
                )
        summary = summarise(state, cfg, verdict(state, cfg), run_dir, metric.name)
        page = write_report(run_dir, summary)
    print("\n".join([*lines(summary), f"Report: {page}"]))
    return run_dir


def _told(loop: Loop, number: int, stage: str) -> Figures:
    what = f"round {number} of {loop.cfg.rounds}: {stage.replace('_', ' ')}" if number else "before the first round"
    print(f"── {what}", file=sys.stderr, flush=True)
    figures = run_stage(loop, number, stage)
    said = ", ".join(f"{value} {name}" for name, value in figures.items() if isinstance(value, int))
    if said:
        print(f"── {what}: {said}", file=sys.stderr, flush=True)
    return figures
