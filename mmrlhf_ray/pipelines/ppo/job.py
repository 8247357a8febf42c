"""Online training, PPO first of all: the driver. It holds references and token-level tables; media and weights never
pass through it."""

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import ray

from mmrlhf_ray.config import AlgorithmConfig, FluencyReward, PPOConfig
from mmrlhf_ray.config.algorithm import GROUPED
from mmrlhf_ray.data.encoding.encode import Encoder, load_encoder
from mmrlhf_ray.data.records.readers import first_records, read_records
from mmrlhf_ray.errors import RunError
from mmrlhf_ray.models import check_same_tokens
from mmrlhf_ray.pipelines.ppo.experience import Answers, Experience, make_experience, mini_batches, shard_by_tokens
from mmrlhf_ray.pipelines.ppo.sampling import Sampled, sample
from mmrlhf_ray.pipelines.ppo.state import DriverState
from mmrlhf_ray.pipelines.responses import response_table
from mmrlhf_ray.pipelines.run_dir import MODEL_DIR, check_models, check_reward_model, run_directory
from mmrlhf_ray.planning.memory import check_learners
from mmrlhf_ray.planning.placement import check_consistent, check_fits
from mmrlhf_ray.planning.preflight import check_training_data
from mmrlhf_ray.rewards.batch import Rows, extras_columns
from mmrlhf_ray.rewards.check import check_rewards
from mmrlhf_ray.rewards.mixture import mix
from mmrlhf_ray.rewards.scores import ComponentScores
from mmrlhf_ray.rollout.batch import Rollouts
from mmrlhf_ray.rollout.groups import in_company
from mmrlhf_ray.runtime.metrics import MetricsWriter
from mmrlhf_ray.runtime.progress import Progress
from mmrlhf_ray.runtime.session import ray_session
from mmrlhf_ray.schema import PROMPT
from mmrlhf_ray.training.checkpoint import Manifest, discard, newest_complete, publish, stage
from mmrlhf_ray.workers.fleet import Fleet, launch

ROLLOUTS_DIR = "rollouts"
_SHOWN = ("score", "kl", "response_tokens")


@dataclass(frozen=True)
class Step:
    """What one step leaves behind."""

    experience: Experience
    state: DriverState
    metrics: dict[str, float]
    warnings: tuple[str, ...]


def ppo_step(step: int, fleet: Fleet, cfg: PPOConfig, state: DriverState) -> Step:
    """One step: sample, ask every role, learn, push."""
    started, algorithm = time.monotonic(), cfg.algorithm
    sampled = sample(fleet, cfg, state)
    rollouts = sampled.rollouts
    pending_reference = fleet.ask_reference(rollouts)  # four fan-outs, scores are on their way already
    pending_policy = fleet.policy.infer(rollouts)
    pending_critic = fleet.critic.infer(rollouts) if fleet.critic else None
    scores, score_s = sampled.scores()
    ref_logprobs, reference_s = pending_reference.result()
    old_logprobs, policy_s = pending_policy.result()
    values, critic_s = pending_critic.result() if pending_critic else (None, 0.0)

    answers_of = scores | _fluency(cfg, ref_logprobs)
    mixed = mix(cfg.rewards, answers_of, Rows.of(rollouts.table), state.mixture)
    answers = Answers(mixed.scores, ref_logprobs, old_logprobs, values)
    rollouts, answers = drop_rows(rollouts, answers, comparable(rollouts, mixed.keep, algorithm))
    longest = cfg.sampling.max_response_tokens
    experience = make_experience(rollouts, answers, state.kl.kl_coef, algorithm, longest, state.moments)
    _gate(step, experience, cfg)
    learned = _learn(step, fleet, cfg, rollouts, experience, state.kl.kl_coef)
    push_started = time.monotonic()
    pushed = fleet.push(policy_version=step + 1)
    seconds = {
        "seconds_generate": rollouts.seconds,
        "seconds_score": score_s,
        "seconds_reference": reference_s,
        "seconds_old_logprobs": policy_s,
        "seconds_values": critic_s,
        "seconds_push": time.monotonic() - push_started,
        "seconds_step": time.monotonic() - started,
    }
    rest = {
        "weight_bytes": float(pushed),
        "kl_coef": state.kl.kl_coef,
        "responses": float(len(rollouts.table)),
        "without_score": float(sampled.without_score + mixed.keep.count(False)),
    }
    state = DriverState(
        cursor=sampled.cursor,
        kl=state.kl.update(experience.metrics["kl"], len(rollouts.table)),
        mixture=mixed.state,
        moments=experience.moments,
    )
    metrics = experience.metrics | mixed.metrics | learned | _sampling_metrics(sampled) | seconds | rest
    return Step(experience, state, metrics, (*sampled.warnings, *mixed.warnings))


def _sampling_metrics(sampled: Sampled) -> dict[str, float]:
    return {
        "seconds_encode": sampled.encoding.seconds,
        "media_bytes": float(sampled.encoding.media_bytes),
        "media_bytes_unique": float(sampled.encoding.media_bytes_unique),
        "processor_calls": float(sampled.encoding.processor_calls),
        "sampling_rounds": float(sampled.rounds),
    }


def _fluency(cfg: PPOConfig, ref_logprobs: Sequence[np.ndarray]) -> dict[str, ComponentScores]:
    """Mean log p under the reference, for components that ask for it."""
    means = [float(row.mean()) for row in ref_logprobs]
    return {r.name: ComponentScores.of(means) for r in cfg.rewards if isinstance(r, FluencyReward)}


def comparable(rollouts: Rollouts, keep: Sequence[bool], algorithm: AlgorithmConfig) -> list[bool]:
    """Rows to keep of those with a score: a response that is left alone has no group to be compared with."""
    if algorithm.advantage_estimator not in GROUPED:
        return list(keep)
    return in_company(rollouts.table, keep)


def drop_rows(rollouts: Rollouts, answers: Answers, keep: Sequence[bool]) -> tuple[Rollouts, Answers]:
    """Without the rows whose score is missing. Raises RunError where none is left."""
    if all(keep):
        return rollouts, answers
    rows = [row for row, kept in enumerate(keep) if kept]
    if not rows:
        raise RunError(f"the rewards gave no score for any of the step's {len(keep)} responses; see the warnings above")
    values = None if answers.values is None else [answers.values[row] for row in rows]
    ref, old = ([column[row] for row in rows] for column in (answers.ref_logprobs, answers.old_logprobs))
    return rollouts.select(rows), Answers([answers.scores[row] for row in rows], ref, old, values)


def _gate(step: int, experience: Experience, cfg: PPOConfig) -> None:
    """Before the first update, sampler, learner and reference are the same model and must say so."""
    if step:
        return
    gaps = {"sampler and learner logprobs": experience.metrics["mismatch_max"]}
    if cfg.reference is None:
        old, ref = (experience.table.column(name).to_pylist() for name in ("old_logprobs", "ref_logprobs"))
        gaps["policy/reference ratio"] = max(
            abs(np.expm1(np.subtract(o, r))).max() for o, r in zip(old, ref, strict=True)
        )
    for what, gap in gaps.items():
        if not gap <= cfg.parity_gate:
            raise RunError(
                f"step 0: {what} differ by {gap:.2e}, more than parity_gate={cfg.parity_gate:g}; training would start "
                "from a wrong KL. Run `mmrlhf parity` on the policy, or raise parity_gate for low precision"
            )


def _learn(
    step: int, fleet: Fleet, cfg: PPOConfig, rollouts: Rollouts, experience: Experience, kl_coef: float
) -> dict[str, float]:
    """Optimizer steps of critic and policy, side by side."""
    a, longest = cfg.algorithm, cfg.sampling.max_response_tokens
    rng = np.random.default_rng((cfg.seed, step))
    count = a.prompts_per_step * a.n_samples_per_prompt // a.mini_batch_size
    steps = mini_batches(len(experience.table), count, a.ppo_epochs, rng)
    table = ray.put(experience.table)
    learning = {"critic": "token_mean"} if fleet.critic else {}
    if step >= a.critic_warmup_steps:
        learning["policy"] = a.aggregation
    started, metrics = {}, {}
    reports: dict[str, Callable[[Mapping[str, float]], dict[str, float]]] = {"critic": _critic_metrics}
    for role, aggregation in learning.items():
        group = fleet.learners[role]
        plan = shard_by_tokens(experience.table, rollouts, group, steps, aggregation, longest)
        started[role] = group.update(table, rollouts.features, plan.shards, plan.denominators, kl_coef)
        metrics["padding_share"] = plan.padding_share
        if role == "policy":
            reports[role] = partial(_policy_metrics, denominator=sum(plan.denominators))
    for role, refs in started.items():
        stats, seconds = fleet.learners[role].finish_update(refs)
        metrics |= reports[role](stats) | {f"seconds_{role}_update": seconds}
    return metrics


def _policy_metrics(stats: Mapping[str, float], denominator: float) -> dict[str, float]:
    """Losses as they were minimised; the rest per token."""
    losses = {name: stats[name] / denominator for name in ("policy_loss", "kl_loss") if name in stats}
    means = {name: stats[name] / stats["tokens"] for name in ("clip_fraction", "approx_kl", "ratio")}
    rates = {name: rate for name, rate in stats.items() if name == "lr" or name.startswith("lr_")}
    return losses | means | rates | {"ratio_max": stats["ratio_max"], "grad_norm": stats["grad_norm"]}


def _critic_metrics(stats: Mapping[str, float]) -> dict[str, float]:
    tokens = stats["value_tokens"]
    variance = stats["return_square"] / tokens - (stats["return"] / tokens) ** 2
    return {
        "value_loss": stats["value_loss"] / tokens,
        "value_clip_fraction": stats["value_clip_fraction"] / tokens,
        "explained_variance": 1.0 - stats["value_error"] / tokens / max(variance, 1e-12),
        "critic_grad_norm": stats["grad_norm"],
    }


def write_rollouts(run_dir: Path, step: int, encoder: Encoder, experience: Experience, most: int) -> None:
    """Responses of a step as a RESPONSE table, for people to look at."""
    scores = experience.table.column("score").to_pylist()
    table = response_table(encoder, experience.table, "ppo", step, scores, experience.response_kl.tolist())
    directory = run_dir / ROLLOUTS_DIR
    directory.mkdir(exist_ok=True)
    pq.write_table(table.slice(0, most), directory / f"step-{step:06d}.parquet")


def run(cfg: PPOConfig, resume: bool = False) -> Path:
    """Train the policy and export it to `<run>/model`. `resume` goes on from the newest complete checkpoint.

    Raises ConfigError, DataError, ModelError, PlacementError before anything expensive starts.
    """
    check_consistent(cfg)
    check_training_data(cfg.data)
    check_models(cfg.policy.path, *([cfg.reference.path] if cfg.reference else []))
    for reward in cfg.model_rewards:
        check_reward_model(reward.model.path)
    others = [*(reward.model for reward in cfg.model_rewards), cfg.critic.model, cfg.reference]
    check_same_tokens(cfg.policy.path, *(model.path for model in others if model is not None))
    check_learners(cfg)
    with run_directory(cfg) as run_dir:
        streaming = cfg.data.streaming
        records = first_records(cfg.data, PROMPT, cfg.seed) if streaming else read_records(cfg.data, PROMPT, run_dir)
        check_rewards(cfg.rewards, extras_columns(records.records))
        with ray_session() as session:
            check_fits(cfg, session.resources.get("CPU", 0.0), session.resources.get("GPU", 0.0))
            with launch(cfg, records, run_dir) as fleet:
                _train(cfg, fleet, run_dir, resume)
                fleet.policy.export(run_dir / MODEL_DIR)
    return run_dir


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
