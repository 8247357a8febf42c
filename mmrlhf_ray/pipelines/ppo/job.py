"""Online training, PPO first of all: the driver. It holds references and token-level tables; media and weights never
pass through it, but for those of the few responses that are kept for people."""

import logging
import shutil
import time
from collections import Counter
from pathlib import Path

from mmrlhf_ray.config import PPOConfig
from mmrlhf_ray.config.base import MODEL_DIR
from mmrlhf_ray.errors import DeadlineExceeded, RoleFailed, Unreachable
from mmrlhf_ray.pipelines.card import finish_with_card
from mmrlhf_ray.pipelines.ppo.evaluation import evaluate, stops
from mmrlhf_ray.pipelines.ppo.keeping import Keeping
from mmrlhf_ray.pipelines.ppo.samples import samples_of
from mmrlhf_ray.pipelines.ppo.saving import Saving
from mmrlhf_ray.pipelines.ppo.state import DriverState
from mmrlhf_ray.pipelines.ppo.step import Step, ppo_step
from mmrlhf_ray.pipelines.ppo.stream import Stream
from mmrlhf_ray.pipelines.responses import ROLLOUTS_DIR
from mmrlhf_ray.pipelines.resume import Start, begin, run_record
from mmrlhf_ray.pipelines.run_dir import run_directory
from mmrlhf_ray.planning.preflight import check_cluster, preflight
from mmrlhf_ray.reports.media import MEDIA_DIR
from mmrlhf_ray.runtime.metrics import MetricsWriter, read_metrics
from mmrlhf_ray.runtime.progress import Progress
from mmrlhf_ray.runtime.session import NOTICED, notice, ray_session
from mmrlhf_ray.runtime.timeline import Span, write_timeline
from mmrlhf_ray.tracking.trackers import Trackers, tracking
from mmrlhf_ray.training.checkpoint import discard
from mmrlhf_ray.training.profiling import PROFILE_DIR
from mmrlhf_ray.workers.crew import compile_here
from mmrlhf_ray.workers.fleet import Fleet, launch

logger = logging.getLogger(__name__)
TIMELINE_FILE = "timeline.json"
_UNNOTED = ("__ray_call__", "joined", "alive")
"""Calls that ask for a sign of life."""
_ATTEMPTS = 3
"""At one step."""
_SHOWN = ("score", "kl", "response_tokens", "eval_score")


def run(cfg: PPOConfig, resume: bool = False) -> Path:
    """Train the policy and export it to `<run>/model`. `resume` continues from the newest complete checkpoint.

    Raises as preflight() and begin() before anything expensive starts.
    """
    with preflight(cfg, run_directory(cfg, resume)) as checked:
        run_dir = checked.run_dir
        start = begin(cfg, run_dir, run_record(cfg, checked.records), resume)
        if start.finished:
            return run_dir
        with ray_session(env=cfg.env) as session:
            check_cluster(cfg, session)
            compile_here(cfg, session)
            with launch(cfg, checked.records, run_dir) as fleet:
                if not resume:
                    discard(run_dir)
                    for kept in (ROLLOUTS_DIR, MEDIA_DIR):
                        shutil.rmtree(run_dir / kept, ignore_errors=True)
                train(cfg, fleet, run_dir, start)
                fleet.begin("learn")
                fleet.policy.export(run_dir / MODEL_DIR)
        finish_with_card(run_dir, start.record)
    return run_dir


def train(cfg: PPOConfig, fleet: Fleet, run_dir: Path, start: Start) -> None:
    """All steps from `start` on, with their metrics, logged responses, evaluations and checkpoints in `run_dir`.

    Where a learner dies or cannot be reached, all of them start again, and the run goes on from its newest checkpoint
    as with --resume; at one step not a third time. Raises what a role raised.
    """
    state, failures = _restore(cfg, fleet, start), Counter[int]()
    while True:
        try:
            return _steps(cfg, fleet, run_dir, start, state)
        except RoleFailed as error:
            step = len(read_metrics(run_dir))
            failures[step] += 1
            if failures[step] == _ATTEMPTS or not (isinstance(error, Unreachable) or fleet.lost_learners()):
                raise
            logger.warning("%s; all learners start again", error)
        fleet.rejoin()
        start = begin(cfg, run_dir, start.record, resume=True)
        if start.checkpoint is None:
            fleet.push(policy_version=0)
        state = _restore(cfg, fleet, start)


def _steps(cfg: PPOConfig, fleet: Fleet, run_dir: Path, start: Start, state: DriverState) -> None:
    stream, timed = Stream(fleet, cfg, state, start.step), list[Span]()
    keeping = Keeping(cfg, run_dir)
    with (
        MetricsWriter(run_dir, "ppo", resume_step=start.resume_step) as writer,
        tracking(cfg, run_dir, "ppo", start.resume_step) as trackers,
        Progress("PPO", cfg.steps, "step", start=start.step) as progress,
        notice() as noticed,
        Saving(cfg, fleet, run_dir, start.record) as saving,
    ):
        for number in range(start.step, cfg.steps):
            began = time.time()
            step = ppo_step(fleet, stream, cfg, state)
            _note_time(cfg, fleet, run_dir, timed, Span(f"step {number}", began, time.time()), number)
            saving.settle()
            state = step.state
            for warning in (*step.warnings, *keeping.keep(number, step)):
                progress.note(f"step {number}: {warning}")
            if number % cfg.track_samples_every_steps == 0:
                _show_samples(cfg, trackers, keeping, number, step)
            metrics, done, responses = dict(step.metrics), number + 1, len(step.experience.table)
            del step  # and with it features and media, which the next step needs the room for
            try:
                if cfg.evaluates_after(done) and not noticed():
                    metrics |= evaluate(fleet, stream, cfg)
            finally:  # the step was taken, whatever becomes of its evaluation
                writer.log(number, metrics)
                trackers.log(number, metrics)
                shown = {name: metrics[name] for name in _SHOWN if name in metrics}
                progress.update(done, responses, **shown)
                stopped = stops(cfg, metrics)
                if saving.due(done) or saving.best(metrics) or stopped or noticed():
                    saving.start(done, state, metrics)
            if stopped and done < cfg.steps:
                progress.note(f"early_stop: step {done} is the last, the two rewards agree too little")
                return
            if noticed() and done < cfg.steps:
                saving.settle()
                progress.note(f"told to end: step {done} is saved; go on with --resume")
                raise SystemExit(NOTICED)


def _note_time(cfg: PPOConfig, fleet: Fleet, run_dir: Path, timed: list[Span], took: Span, step: int) -> None:
    """Note how long a step took that `profile` asks for or that lies between two such; after the last one write what
    everyone did in them."""
    if cfg.profile is None or not min(cfg.profile.steps) <= step <= max(cfg.profile.steps):
        return
    timed.append(took)
    if step == max(cfg.profile.steps):
        write_timeline(run_dir / PROFILE_DIR / TIMELINE_FILE, fleet.watch.actors, timed, _UNNOTED)


def _show_samples(cfg: PPOConfig, trackers: Trackers, keeping: Keeping, number: int, step: Step) -> None:
    """Give the trackers some of the step's responses. Media that are gone with a node are no reason to end the run."""
    if not (len(trackers) and cfg.track_samples):
        return
    try:
        trackers.show(number, samples_of(step, keeping.encoder, cfg.track_samples, cfg.deadlines.stage_s))
    except (RoleFailed, DeadlineExceeded) as error:
        logger.warning("step %d: trackers get no samples: %s", number, error)


def _restore(cfg: PPOConfig, fleet: Fleet, start: Start) -> DriverState:
    """Load the checkpoint that the run starts from, if any."""
    if start.checkpoint is None:
        return DriverState.start(cfg)
    fleet.begin("learn")
    for role, group in fleet.learners.items():
        group.load(start.checkpoint / role)
    fleet.push(policy_version=start.policy_version)
    return DriverState.resumed(cfg, start.driver, start.changed.keys())
