"""`mmrlhf discrete`: learn decisions with RLlib, measure them on held-out cases, write the module and a report."""

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from ray.rllib.algorithms.algorithm import Algorithm

from mmrlhf_ray.algorithms.lagrange import LagrangeMultiplier
from mmrlhf_ray.config import DiscreteConfig
from mmrlhf_ray.discrete.cases import Cases
from mmrlhf_ray.discrete.decide import decide, scores_of
from mmrlhf_ray.discrete.files import MODULE_DIR, WEIGHTS_FILE
from mmrlhf_ray.discrete.module import DecisionNet, silence_rllib_deprecations
from mmrlhf_ray.discrete.saved import load_net
from mmrlhf_ray.discrete.start import (
    COST,
    EPISODE_REWARD,
    TOTAL_REWARD,
    Material,
    give_multiplier,
    net_of,
    preferences_of,
    save_policy,
    start,
    start_from,
    step_metrics,
    tensors,
)
from mmrlhf_ray.disk import writing
from mmrlhf_ray.errors import ConfigError
from mmrlhf_ray.pipelines.discrete.material import make_material
from mmrlhf_ray.pipelines.discrete.report import headline, write_report
from mmrlhf_ray.pipelines.resume import RunRecord, Start, begin, finish, run_record
from mmrlhf_ray.pipelines.run_dir import run_directory
from mmrlhf_ray.planning.preflight import check_cluster, preflight
from mmrlhf_ray.rewards.mixture import multiplier_of
from mmrlhf_ray.runtime.metrics import MetricsWriter, read_metrics
from mmrlhf_ray.runtime.progress import Progress
from mmrlhf_ray.runtime.session import ray_session
from mmrlhf_ray.tracking.trackers import tracking
from mmrlhf_ray.training.checkpoint import Manifest, SaveClock, discard, publish, staged

HELDOUT_SCORE = "heldout_score"
_RLLIB_DIR = "rllib"
_SHOWN = (EPISODE_REWARD, COST, "loss", HELDOUT_SCORE)


@dataclass(frozen=True)
class Position:
    """Where a run is."""

    step: int = 0
    seconds: float = 0.0
    """Of training, earlier attempts counted."""
    reward: float = 0.0
    """Sum of all rewards so far."""
    heldout: float | None = None
    """Mean held-out score, where the last step measured it."""
    multiplier: LagrangeMultiplier | None = None
    """None without a cost."""

    def is_last(self, cfg: DiscreteConfig) -> bool:
        """Whether no step comes after this one."""
        out_of_time = cfg.max_minutes is not None and self.seconds >= 60.0 * cfg.max_minutes
        reached = cfg.stop_at is not None and self.heldout is not None and self.heldout >= cfg.stop_at
        return self.step >= cfg.steps or out_of_time or reached


def run(cfg: DiscreteConfig, *, resume: bool = False) -> Path:
    """Train, and write `module/`, `metrics.jsonl`, `discrete.json` and `report.html` into the run directory.

    Raises ConfigError, DataError and RunError, before Ray starts wherever that is possible.
    """
    silence_rllib_deprecations()
    if cfg.warm_start is not None and not (Path(cfg.warm_start) / MODULE_DIR / WEIGHTS_FILE).is_file():
        raise ConfigError(f"warm_start={cfg.warm_start}: no trained module in it; name a finished run's directory")
    with preflight(cfg, run_directory(cfg, resume)) as checked:
        run_dir = checked.run_dir
        began = begin(cfg, run_dir, run_record(cfg, checked.records), resume, MODULE_DIR)
        if began.finished:
            return run_dir
        material, heldout = make_material(cfg, checked.records, run_dir, resume)
        if not resume:
            discard(run_dir)
        with ray_session(env=cfg.env) as session:
            check_cluster(cfg, session)
            _train(cfg, run_dir, material, heldout, began)
        finish(run_dir, MODULE_DIR)
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


def _train(cfg: DiscreteConfig, run_dir: Path, material: Material, heldout: Sequence[Cases], began: Start) -> None:
    position = _position(cfg, began.driver)
    with closing(_Stopped(start(cfg, material, position.step))) as held:
        algorithm = held.algorithm
        if began.checkpoint is not None:
            algorithm.restore_from_path(str((began.checkpoint / _RLLIB_DIR).resolve()))
        elif cfg.warm_start is not None:
            start_from(algorithm, cfg, Path(cfg.warm_start) / MODULE_DIR)
        if not position.is_last(cfg):
            _steps(cfg, run_dir, algorithm, heldout, position, began)
        with writing(run_dir / MODULE_DIR):
            save_policy(algorithm, run_dir / MODULE_DIR)


def _position(cfg: DiscreteConfig, driver: Mapping[str, Any]) -> Position:
    """Of a checkpoint, or the beginning. Those of earlier versions have `done`, which follows from the rest."""
    multiplier = None if cfg.reward.cost is None else multiplier_of(cfg.reward.cost)
    said = driver.get("multiplier")
    if multiplier is not None and said is not None:
        multiplier = replace(multiplier, integral=said["integral"], excess=said["excess"])
    return Position(**{key: value for key, value in driver.items() if key != "done"} | {"multiplier": multiplier})


def _steps(
    cfg: DiscreteConfig, run_dir: Path, algorithm: Algorithm, heldout: Sequence[Cases], at: Position, began: Start
) -> None:
    evaluated = [_part(cases, cfg.evaluation.rows) for cases in heldout]
    clock = SaveClock(cfg.checkpoint)
    writer = MetricsWriter(run_dir, "discrete", resume_step=began.resume_step)
    with (
        writer as log,
        tracking(cfg, run_dir, "discrete", began.resume_step) as trackers,
        Progress("discrete", cfg.steps, "step", start=at.step) as progress,
    ):
        while not at.is_last(cfg):
            started = time.monotonic()
            metrics, multiplier = _step(algorithm, at)
            seconds = at.seconds + time.monotonic() - started
            after = Position(at.step + 1, seconds, metrics.get(TOTAL_REWARD, 0.0), multiplier=multiplier)
            if after.is_last(cfg) or after.step % cfg.evaluation.every_steps == 0:
                metrics |= heldout_metrics(cfg, evaluated, net_of(algorithm))
                after = replace(after, heldout=metrics[HELDOUT_SCORE])
            metrics |= {"train_seconds": after.seconds}
            log.log(at.step, metrics)
            trackers.log(at.step, metrics)
            at = after
            progress.update(at.step, cfg.decisions_per_step, **{k: metrics[k] for k in _SHOWN if k in metrics})
            if at.is_last(cfg) or at.step % cfg.checkpoint.every_steps == 0 or clock.late:
                _save(cfg, run_dir, algorithm, at, began.record)
                clock.restart()


def _step(algorithm: Algorithm, at: Position) -> tuple[dict[str, float], LagrangeMultiplier | None]:
    """Figures of one step, and the multiplier of the next."""
    if at.multiplier is None:
        metrics = step_metrics(algorithm.train(), at.reward)
        metrics.pop(COST, None)
        return metrics, None
    give_multiplier(algorithm, at.multiplier.value)
    metrics = step_metrics(algorithm.train(), at.reward) | {"multiplier": at.multiplier.value}
    return metrics, at.multiplier.update(metrics[COST])


def _save(cfg: DiscreteConfig, run_dir: Path, algorithm: Algorithm, at: Position, record: RunRecord) -> None:
    with staged(run_dir, at.step) as path:
        algorithm.save_to_path(str((path / _RLLIB_DIR).resolve()))
        manifest = Manifest(
            step=at.step,
            policy_version=at.step,
            seed=cfg.seed,
            ranks={"learners": cfg.learners.replicas},
            run=record.to_dict(),
            finished=at.is_last(cfg),
            driver=asdict(at),
        )
        publish(path, manifest, cfg.checkpoint.keep)


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
