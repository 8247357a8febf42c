"""`mmrlhf discrete`: learn decisions with RLlib, measure them on held-out cases, write the module and a report."""

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ray.rllib.algorithms.algorithm import Algorithm

from mmrlhf_ray.config import DiscreteConfig
from mmrlhf_ray.discrete.cases import Cases
from mmrlhf_ray.discrete.decide import decide, scores_of
from mmrlhf_ray.discrete.files import MODULE_DIR, WEIGHTS_FILE
from mmrlhf_ray.discrete.module import DecisionNet, silence_rllib_deprecations
from mmrlhf_ray.discrete.saved import load_net
from mmrlhf_ray.discrete.start import (
    EPISODE_REWARD,
    TOTAL_REWARD,
    Material,
    net_of,
    preferences_of,
    save_policy,
    start,
    start_from,
    step_metrics,
    tensors,
)
from mmrlhf_ray.errors import ConfigError
from mmrlhf_ray.pipelines.discrete.material import make_material
from mmrlhf_ray.pipelines.discrete.report import headline, write_report
from mmrlhf_ray.pipelines.run_dir import run_directory
from mmrlhf_ray.planning.preflight import check_cluster, preflight
from mmrlhf_ray.runtime.metrics import MetricsWriter, read_metrics
from mmrlhf_ray.runtime.progress import Progress
from mmrlhf_ray.runtime.session import ray_session
from mmrlhf_ray.training.checkpoint import Manifest, discard, newest_complete, publish, stage

HELDOUT_SCORE = "heldout_score"
_RLLIB_DIR = "rllib"
_SHOWN = (EPISODE_REWARD, "loss", HELDOUT_SCORE)


@dataclass(frozen=True)
class Position:
    """Where a run is."""

    step: int = 0
    seconds: float = 0.0
    """Of training, earlier attempts counted."""
    reward: float = 0.0
    """Sum of all rewards so far."""
    done: bool = False


def run(cfg: DiscreteConfig, *, resume: bool = False) -> Path:
    """Train, and write `module/`, `metrics.jsonl`, `discrete.json` and `report.html` into the run directory.

    Raises ConfigError, DataError and RunError, before Ray starts wherever that is possible.
    """
    silence_rllib_deprecations()
    if cfg.warm_start is not None and not (Path(cfg.warm_start) / MODULE_DIR / WEIGHTS_FILE).is_file():
        raise ConfigError(f"warm_start={cfg.warm_start}: no trained module in it; name a finished run's directory")
    with preflight(cfg, run_directory(cfg)) as checked:
        run_dir = checked.run_dir
        material, heldout = make_material(cfg, checked.records, run_dir, resume)
        if not resume:
            discard(run_dir)
        with ray_session() as session:
            check_cluster(cfg, session)
            _train(cfg, run_dir, material, heldout, resume)
        _, net = load_net(run_dir / MODULE_DIR)
        print(headline(write_report(run_dir, cfg, heldout, net, read_metrics(run_dir))))
    return run_dir


def heldout_metrics(cfg: DiscreteConfig, heldout: Sequence[Cases], net: DecisionNet) -> dict[str, float]:
    """Mean score over the tasks, each task's, requests where there are any, and the fusion's weights."""
    metrics: dict[str, float] = {}
    scores, requests = [], []
    for cases in heldout:
        decisions = decide(cfg, cases, preferences_of(net))
        scores.append(float(scores_of(cases, decisions.actions).mean()))
        requests.append(float(decisions.asked.mean()))
        if len(heldout) > 1:
            metrics[f"{HELDOUT_SCORE}/{cases.task}"] = scores[-1]
    metrics[HELDOUT_SCORE] = float(np.mean(scores))
    if cfg.sequential is not None:
        metrics["heldout_requests"] = float(np.mean(requests))
    shares = net.shares(tensors(heldout[0].observations(np.arange(min(len(heldout[0]), 256)))))
    return metrics | {f"weight/{kind}/{name}": w for kind, found in shares.items() for name, w in found.items()}


def _train(cfg: DiscreteConfig, run_dir: Path, material: Material, heldout: Sequence[Cases], resume: bool) -> None:
    found = newest_complete(run_dir) if resume else None
    position = Position(**found[1].driver) if found else Position()
    with closing(_Stopped(start(cfg, material, position.step))) as held:
        algorithm = held.algorithm
        if found:
            algorithm.restore_from_path(str((found[0] / _RLLIB_DIR).resolve()))
        elif cfg.warm_start is not None:
            start_from(algorithm, cfg, Path(cfg.warm_start) / MODULE_DIR)
        if not position.done:
            _steps(cfg, run_dir, algorithm, heldout, position, resume)
        save_policy(algorithm, run_dir / MODULE_DIR)


def _steps(
    cfg: DiscreteConfig, run_dir: Path, algorithm: Algorithm, heldout: Sequence[Cases], at: Position, resume: bool
) -> None:
    evaluated = [_part(cases, cfg.evaluation.rows) for cases in heldout]
    writer = MetricsWriter(run_dir, "discrete", resume_step=at.step if resume else None)
    with writer as log, Progress("discrete", cfg.steps, "step", start=at.step) as progress:
        while not at.done:
            began = time.monotonic()
            metrics = step_metrics(algorithm.train(), at.reward)
            step, seconds = at.step + 1, at.seconds + time.monotonic() - began
            out_of_time = cfg.max_minutes is not None and seconds >= 60.0 * cfg.max_minutes
            last = step == cfg.steps or out_of_time
            if last or step % cfg.evaluation.every_steps == 0:
                metrics |= heldout_metrics(cfg, evaluated, net_of(algorithm))
                last |= cfg.stop_at is not None and metrics[HELDOUT_SCORE] >= cfg.stop_at
            log.log(at.step, metrics | {"train_seconds": seconds})
            at = Position(step, seconds, metrics.get(TOTAL_REWARD, 0.0), last)
            progress.update(step, cfg.decisions_per_step, **{k: metrics[k] for k in _SHOWN if k in metrics})
            if last or step % cfg.checkpoint.every_steps == 0:
                _save(cfg, run_dir, algorithm, at)


def _save(cfg: DiscreteConfig, run_dir: Path, algorithm: Algorithm, at: Position) -> None:
    staged = stage(run_dir, at.step)
    algorithm.save_to_path(str((staged / _RLLIB_DIR).resolve()))
    manifest = Manifest(
        step=at.step,
        policy_version=at.step,
        seed=cfg.seed,
        ranks={"learners": cfg.learners.replicas},
        driver={"step": at.step, "seconds": at.seconds, "reward": at.reward, "done": at.done},
    )
    publish(staged, manifest, cfg.checkpoint.keep)


def _part(cases: Cases, rows: int | None) -> Cases:
    """Evenly spread rows, so that every class has its share of them."""
    if rows is None or rows >= len(cases):
        return cases
    return cases.subset(np.linspace(0, len(cases) - 1, rows).round().astype(np.int64))


@dataclass(frozen=True)
class _Stopped:
    """An algorithm for `closing`."""

    algorithm: Algorithm

    def close(self) -> None:
        self.algorithm.stop()
