"""Online training, PPO first of all: the driver. It holds references and token-level tables; media and weights never
pass through it."""

import shutil
from pathlib import Path

import pyarrow.parquet as pq

from mmrlhf_ray.config import PPOConfig
from mmrlhf_ray.config.base import MODEL_DIR
from mmrlhf_ray.data.encoding.encode import Encoder, load_encoder
from mmrlhf_ray.errors import RunError
from mmrlhf_ray.pipelines.ppo.experience import Experience
from mmrlhf_ray.pipelines.ppo.state import DriverState
from mmrlhf_ray.pipelines.ppo.step import ppo_step
from mmrlhf_ray.pipelines.responses import response_table
from mmrlhf_ray.pipelines.run_dir import run_directory
from mmrlhf_ray.planning.preflight import check_cluster, preflight
from mmrlhf_ray.runtime.metrics import MetricsWriter
from mmrlhf_ray.runtime.progress import Progress
from mmrlhf_ray.runtime.session import ray_session
from mmrlhf_ray.training.checkpoint import Manifest, discard, newest_complete, publish, stage
from mmrlhf_ray.workers.fleet import Fleet, launch

ROLLOUTS_DIR = "rollouts"
_SHOWN = ("score", "kl", "response_tokens")


def write_rollouts(run_dir: Path, step: int, encoder: Encoder, experience: Experience, most: int) -> None:
    """Responses of a step as a RESPONSE table, for people to look at."""
    scores = experience.table.column("score").to_pylist()
    table = response_table(encoder, experience.table, "ppo", step, scores, experience.response_kl.tolist())
    directory = run_dir / ROLLOUTS_DIR
    directory.mkdir(exist_ok=True)
    pq.write_table(table.slice(0, most), directory / f"step-{step:06d}.parquet")


def run(cfg: PPOConfig, resume: bool = False) -> Path:
    """Train the policy and export it to `<run>/model`. `resume` goes on from the newest complete checkpoint.

    Raises as preflight() before anything expensive starts.
    """
    with preflight(cfg, run_directory(cfg)) as checked, ray_session() as session:
        check_cluster(cfg, session)
        with launch(cfg, checked.records["data"], checked.run_dir) as fleet:
            _train(cfg, fleet, checked.run_dir, resume)
            fleet.policy.export(checked.run_dir / MODEL_DIR)
    return checked.run_dir


def _train(cfg: PPOConfig, fleet: Fleet, run_dir: Path, resume: bool) -> None:
    state = DriverState.start(cfg)
    first, state = _restore(cfg, fleet, run_dir, state) if resume else (0, state)
    if not first:
        discard(run_dir)
        shutil.rmtree(run_dir / ROLLOUTS_DIR, ignore_errors=True)
    encoder = load_encoder(cfg.policy.path)
    with (
        MetricsWriter(run_dir, "ppo", resume_step=first if resume else None) as writer,
        Progress("PPO", cfg.steps, "step", start=first) as progress,
    ):
        for number in range(first, cfg.steps):
            step = ppo_step(number, fleet, cfg, state)
            state = step.state
            for warning in step.warnings:
                progress.note(f"step {number}: {warning}")
            write_rollouts(run_dir, number, encoder, step.experience, cfg.rollouts_logged)
            writer.log(number, step.metrics)
            shown = {name: step.metrics[name] for name in _SHOWN}
            progress.update(number + 1, len(step.experience.table), **shown)
            if (number + 1) % cfg.checkpoint.every_steps == 0 and number + 1 < cfg.steps:
                _save(cfg, fleet, run_dir, number + 1, state)


def _save(cfg: PPOConfig, fleet: Fleet, run_dir: Path, done: int, state: DriverState) -> None:
    staged = stage(run_dir, done)
    for role, group in fleet.learners.items():
        group.save(staged / role)
    manifest = Manifest(
        step=done,
        policy_version=done,
        seed=cfg.seed,
        ranks={role: len(group.group) for role, group in fleet.learners.items()},
        driver=state.to_dict(),
    )
    publish(staged, manifest, cfg.checkpoint.keep)


def _restore(cfg: PPOConfig, fleet: Fleet, run_dir: Path, state: DriverState) -> tuple[int, DriverState]:
    """Load the newest complete checkpoint. Without one the run starts at step 0."""
    found = newest_complete(run_dir)
    if found is None:
        return 0, state
    path, manifest = found
    ranks = {role: len(group.group) for role, group in fleet.learners.items()}
    for key, was, now in (("seed", manifest.seed, cfg.seed), ("learner ranks", manifest.ranks, ranks)):
        if was != now:
            raise RunError(f"{path}: {key} was {was}, is now {now}; resume with what the run was started with")
    for role, group in fleet.learners.items():
        group.load(path / role)
    fleet.push(policy_version=manifest.policy_version)
    return manifest.step, DriverState.from_dict(manifest.driver)
