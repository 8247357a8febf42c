"""`mmrlhf behaviour`: a policy acts, people compare clips of it, reward models learn from them, and it learns again."""

import time
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.core.rl_module.torch import TorchRLModule

from mmrlhf_ray.algorithms.lagrange import LagrangeMultiplier
from mmrlhf_ray.behaviour.annotators import People, judge_of
from mmrlhf_ray.behaviour.env import RecordedEnv
from mmrlhf_ray.behaviour.episodes import FIRST_SEED, Episode, check_demonstrations, play, whole_env, write_replays
from mmrlhf_ray.behaviour.learned_reward import give_reward
from mmrlhf_ray.behaviour.ledger import set_ledger_aside
from mmrlhf_ray.behaviour.saved import MODULE_DIR, save_policy, save_rewards
from mmrlhf_ray.behaviour.scripts import Measure
from mmrlhf_ray.behaviour.start import act, recorded, start, step_metrics
from mmrlhf_ray.behaviour.teacher import Teacher
from mmrlhf_ray.config import BehaviourConfig
from mmrlhf_ray.config.behaviour import PeopleAnnotators
from mmrlhf_ray.discrete.module import silence_rllib_deprecations
from mmrlhf_ray.disk import writing
from mmrlhf_ray.errors import ConfigError, first_line
from mmrlhf_ray.pipelines.behaviour.report import AFTER_FILE, BEFORE_FILE, headline, write_report
from mmrlhf_ray.pipelines.resume import Start, begin, finish, run_record
from mmrlhf_ray.pipelines.run_dir import run_directory
from mmrlhf_ray.planning.preflight import check_cluster, preflight
from mmrlhf_ray.rewards.mixture import multiplier_of
from mmrlhf_ray.runtime.metrics import MetricsWriter
from mmrlhf_ray.runtime.progress import Progress
from mmrlhf_ray.runtime.session import ray_session
from mmrlhf_ray.tracking.trackers import tracking
from mmrlhf_ray.training.checkpoint import Manifest, SaveClock, discard, publish, staged

_RLLIB_DIR, _REWARD_FILE = "rllib", "reward_models.pt"
_SHOWN = ("true_return", "votes", "heldout_agreement", "cost")


@dataclass(frozen=True)
class Position:
    """Where a run is."""

    step: int = 0
    seconds: float = 0.0
    """Earlier attempts counted."""
    multiplier: LagrangeMultiplier | None = None
    """None without a cost."""

    def to_dict(self) -> dict[str, Any]:
        """For checkpoints."""
        own = None if self.multiplier is None else self.multiplier.to_dict()
        return {"step": self.step, "seconds": self.seconds, "multiplier": own}

    @classmethod
    def from_dict(cls, cfg: BehaviourConfig, state: Mapping[str, Any]) -> "Position":
        """The inverse of `to_dict`; the beginning where there is nothing."""
        if state:
            own = state["multiplier"] and LagrangeMultiplier.from_dict(state["multiplier"])
            return cls(state["step"], state["seconds"], own)
        return cls(multiplier=None if cfg.cost is None else multiplier_of(cfg.cost))


def run(cfg: BehaviourConfig, *, resume: bool = False) -> Path:
    """Train, and write `module/`, `votes/`, `metrics.jsonl`, `behaviour.json` and `report.html` into the run directory.

    Raises ConfigError, RunError and RunFailed, before Ray starts wherever that is possible.
    """
    silence_rllib_deprecations()
    check(cfg)
    with preflight(cfg, run_directory(cfg, resume)) as checked:
        run_dir = checked.run_dir
        began = begin(cfg, run_dir, run_record(cfg, checked.records), resume, MODULE_DIR)
        if began.finished:
            return run_dir
        if not resume:
            discard(run_dir)
            set_ledger_aside(run_dir)
        with ray_session(env=cfg.env) as session:
            check_cluster(cfg, session)
            after = _train(cfg, run_dir, began)
        finish(run_dir, MODULE_DIR)
        print(headline(write_report(run_dir, cfg, after)))
    return run_dir


def check(cfg: BehaviourConfig) -> None:
    """Try everything that a run will need once: people's server, the environment, its pictures, the judge, the measure.

    Raises ConfigError with the key that is wrong, RunError where the server does not answer.
    """
    if isinstance(cfg.annotators, PeopleAnnotators) and cfg.learn_from == "votes":
        with closing(People(cfg, cfg.annotators)) as people:
            people.votes({})
    with closing(RecordedEnv(cfg, render=True)) as env:
        env.begin(0)
        env.action_space.seed(0)
        for _ in range(2 * cfg.segments.steps):
            _, _, terminated, truncated, _ = env.step(env.action_space.sample())
            if terminated or truncated:
                env.begin(1)
        try:
            env.frame()
        except ConfigError:
            raise
        except Exception as error:
            raise ConfigError(
                f"environment.id={cfg.environment.id}: nothing can be rendered here: {first_line(error)}; for MuJoCo "
                "set MUJOCO_GL to egl or osmesa and install that library"
            ) from error
        segments = env.take()
    if len(segments) > 1 and (judge := judge_of(cfg)) is not None:
        with closing(judge):
            judge(segments[0], segments[1])
    if cfg.demonstrations is not None:
        check_demonstrations(cfg.demonstrations.path, cfg.segments.steps)
    with closing(Measure(cfg.evaluation.measure, cfg.evaluation.deadline_s)) as measure:
        for segment in segments[:1]:
            measure(segment)


def _train(cfg: BehaviourConfig, run_dir: Path, began: Start) -> list[Episode]:
    at = Position.from_dict(cfg, began.driver)
    with ExitStack() as stack:
        algorithm = start(cfg, at.step)
        stack.callback(algorithm.stop)
        env = stack.enter_context(closing(whole_env(cfg)))
        teacher = None
        if cfg.learn_from == "votes":
            teacher = stack.enter_context(closing(Teacher(cfg, run_dir, env.observation_space, env.action_space)))
        if began.checkpoint is not None:
            algorithm.restore_from_path(str((began.checkpoint / _RLLIB_DIR).resolve()))
            if teacher is not None:
                teacher.restore(torch.load(began.checkpoint / _REWARD_FILE, weights_only=True))
        seeds = range(FIRST_SEED, FIRST_SEED + cfg.evaluation.episodes)
        if not (run_dir / BEFORE_FILE).exists() or began.checkpoint is None:
            before = play(env, _module(algorithm), seeds)
            write_replays(run_dir / BEFORE_FILE, [episode.replay for episode in before])
        if at.step < cfg.steps:
            _steps(cfg, run_dir, algorithm, teacher, at, began)
        after = play(env, _module(algorithm), seeds)
        write_replays(run_dir / AFTER_FILE, [episode.replay for episode in after])
        with writing(run_dir / MODULE_DIR):
            save_policy(_module(algorithm), cfg, run_dir / MODULE_DIR)
            if teacher is not None:
                save_rewards(teacher.ensemble, run_dir / MODULE_DIR)
    return after


def _steps(
    cfg: BehaviourConfig, run_dir: Path, algorithm: Algorithm, teacher: Teacher | None, at: Position, began: Start
) -> None:
    clock = SaveClock(cfg.checkpoint)
    with (
        MetricsWriter(run_dir, "behaviour", resume_step=began.resume_step) as log,
        tracking(cfg, run_dir, "behaviour", began.resume_step) as trackers,
        Progress("behaviour", cfg.steps, "step", start=at.step) as progress,
    ):
        while at.step < cfg.steps:
            started = time.monotonic()
            metrics: dict[str, float] = {} if teacher is None else _teach(cfg, algorithm, teacher, at)
            metrics |= step_metrics(algorithm.train())
            new = recorded(algorithm)
            if teacher is not None:
                teacher.see(new)
            multiplier = at.multiplier
            if multiplier is not None:
                metrics |= {"cost": float(np.mean([r.costs.mean() for r in new])), "multiplier": multiplier.value}
                multiplier = multiplier.update(metrics["cost"])
            at = Position(at.step + 1, at.seconds + time.monotonic() - started, multiplier)
            metrics |= {"train_seconds": at.seconds, "decisions": float(at.step * cfg.decisions_per_step)}
            log.log(at.step - 1, metrics)
            trackers.log(at.step - 1, metrics)
            progress.update(at.step, cfg.decisions_per_step, **{k: metrics[k] for k in _SHOWN if k in metrics})
            if at.step == cfg.steps or at.step % cfg.checkpoint.every_steps == 0 or clock.late:
                _save(cfg, run_dir, algorithm, teacher, at, began)
                clock.restart()


def _teach(cfg: BehaviourConfig, algorithm: Algorithm, teacher: Teacher, at: Position) -> dict[str, float]:
    """Ask, hear, learn, and give the learners the reward that they learn from in this step."""
    if not teacher.seen:  # at the beginning, and after a resume
        teacher.see(act(algorithm, max(cfg.decisions_per_step, 2 * cfg.segments.steps * cfg.env_runners.envs)))
    teacher.ask(at.step)
    if at.step == 0:
        teacher.wait(cfg.ask.first)
    figures = teacher.learn(at.step)
    give_reward(algorithm, teacher.ensemble.state_dict(), at.multiplier.value if at.multiplier else 0.0)
    return figures


def _save(
    cfg: BehaviourConfig, run_dir: Path, algorithm: Algorithm, teacher: Teacher | None, at: Position, began: Start
) -> None:
    with staged(run_dir, at.step) as path:
        algorithm.save_to_path(str((path / _RLLIB_DIR).resolve()))
        if teacher is not None:
            torch.save(teacher.state(), path / _REWARD_FILE)
        manifest = Manifest(
            step=at.step,
            policy_version=at.step,
            seed=cfg.seed,
            ranks={"learners": cfg.learners.replicas},
            run=began.record.to_dict(),
            finished=at.step == cfg.steps,
            driver=at.to_dict(),
        )
        publish(path, manifest, cfg.checkpoint.keep)


def _module(algorithm: Algorithm) -> TorchRLModule:
    module = algorithm.get_module()
    assert isinstance(module, TorchRLModule)
    return module
