"""PPO: the driver. It holds references and token-level tables; media and weights never pass through it."""

import shutil
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from mmrlhf_ray.algorithms.kl import AdaptiveKL
from mmrlhf_ray.config import PPOConfig
from mmrlhf_ray.data.encode import Encoder, load_encoder
from mmrlhf_ray.data.readers import read_records
from mmrlhf_ray.pipelines.experience import Answers, Experience, make_experience, mini_batches, shard_by_tokens
from mmrlhf_ray.pipelines.responses import response_table
from mmrlhf_ray.pipelines.run_dir import MODEL_DIR, check_models, check_reward_model, run_directory
from mmrlhf_ray.runtime.errors import RunError
from mmrlhf_ray.runtime.metrics import MetricsWriter
from mmrlhf_ray.runtime.placement_check import check_consistent, check_fits
from mmrlhf_ray.runtime.progress import Progress
from mmrlhf_ray.runtime.session import ray_session
from mmrlhf_ray.schema import PROMPT
from mmrlhf_ray.training.checkpoint import Manifest, discard, newest_complete, publish, stage
from mmrlhf_ray.workers.fleet import Fleet, Prompts, Rollouts
from mmrlhf_ray.workers.launch import launch_ppo

ROLLOUTS_DIR = "rollouts"
_SHOWN = ("score", "kl", "response_tokens")


def ppo_step(step: int, fleet: Fleet, cfg: PPOConfig, kl_coef: float) -> tuple[Rollouts, Experience, dict[str, float]]:
    """One step of PPO: sample, ask every role, learn, push. Returns what was sampled and the step's metrics."""
    started, algorithm = time.monotonic(), cfg.algorithm
    prompts = fleet.prompts.take(step * algorithm.prompts_per_step, algorithm.prompts_per_step)
    samples = algorithm.prompts_per_step * algorithm.n_samples_per_prompt
    rollouts = fleet.generators.generate(prompts, algorithm.n_samples_per_prompt, seed_offset=step * samples)

    facts = [len(f) for f in rollouts.table.column("facts_token_ids").to_pylist()]
    pending_scores = fleet.scorers.ask(rollouts, extra_tokens=facts)  # four fan-outs, nothing blocks yet
    pending_reference = fleet.reference.ask(rollouts)
    pending_policy = fleet.policy.infer(rollouts)
    pending_critic = fleet.critic.infer(rollouts)
    scores, score_s = pending_scores.result()
    ref_logprobs, reference_s = pending_reference.result()
    old_logprobs, policy_s = pending_policy.result()
    values, critic_s = pending_critic.result()

    experience = make_experience(rollouts, Answers(scores, ref_logprobs, old_logprobs, values), kl_coef, algorithm)
    _gate(step, experience, cfg)
    learned = _learn(step, fleet, cfg, rollouts, experience)
    push_started = time.monotonic()
    pushed = fleet.weight_sync.push(policy_version=step + 1)
    seconds = {
        "seconds_encode": prompts.stats.seconds,
        "seconds_generate": rollouts.seconds,
        "seconds_score": score_s,
        "seconds_reference": reference_s,
        "seconds_old_logprobs": policy_s,
        "seconds_values": critic_s,
        "seconds_push": time.monotonic() - push_started,
        "seconds_step": time.monotonic() - started,
    }
    traffic = {"weight_bytes": float(pushed), "kl_coef": kl_coef, **_prompt_metrics(prompts)}
    return rollouts, experience, experience.metrics | learned | seconds | traffic


def _prompt_metrics(prompts: Prompts) -> dict[str, float]:
    return {"media_bytes": float(prompts.stats.media_bytes), "processor_calls": float(prompts.stats.processor_calls)}


def _gate(step: int, experience: Experience, cfg: PPOConfig) -> None:
    """Before the first update, sampler, learner and reference are the same model and must say so."""
    if step:
        return
    table = experience.table
    old, ref = (table.column(name).to_pylist() for name in ("old_logprobs", "ref_logprobs"))
    ratio = max(abs(np.expm1(np.subtract(o, r))).max() for o, r in zip(old, ref, strict=True))
    for what, gap in (
        ("sampler and learner logprobs", experience.metrics["mismatch_max"]),
        ("policy/reference ratio", ratio),
    ):
        if not gap <= cfg.parity_gate:
            raise RunError(
                f"step 0: {what} differ by {gap:.2e}, more than parity_gate={cfg.parity_gate:g}; training would start "
                "from a wrong KL. Run `mmrlhf parity` on the policy, or raise parity_gate for low precision"
            )


def _learn(step: int, fleet: Fleet, cfg: PPOConfig, rollouts: Rollouts, experience: Experience) -> dict[str, float]:
    """Optimizer steps of critic and policy, side by side."""
    import ray

    algorithm = cfg.algorithm
    rng = np.random.default_rng((cfg.seed, step))
    steps = mini_batches(len(experience.table), algorithm.mini_batch_size, algorithm.ppo_epochs, rng)
    table = ray.put(experience.table)
    plan = shard_by_tokens(experience.table, rollouts, fleet.critic, steps)
    critic = fleet.critic.update(table, rollouts.features, plan.shards, plan.denominators)
    metrics = {"padding_share": plan.padding_share}
    if step >= algorithm.critic_warmup_steps:
        plan = shard_by_tokens(experience.table, rollouts, fleet.policy, steps)
        policy = fleet.policy.update(table, rollouts.features, plan.shards, plan.denominators)
        stats, seconds = fleet.policy.finish_update(policy)
        metrics |= _policy_metrics(stats) | {"seconds_policy_update": seconds}
    stats, seconds = fleet.critic.finish_update(critic)
    return metrics | _critic_metrics(stats) | {"seconds_critic_update": seconds}


def _policy_metrics(stats: Mapping[str, float]) -> dict[str, float]:
    means = {k: stats[k] / stats["tokens"] for k in ("policy_loss", "clip_fraction", "approx_kl", "ratio")}
    return means | {"ratio_max": stats["ratio_max"], "grad_norm": stats["grad_norm"], "lr": stats["lr"]}


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
    check_models(cfg.policy.path)
    check_reward_model(cfg.reward_model.path)
    with run_directory(cfg) as run_dir:
        records = read_records(cfg.data, PROMPT, run_dir)
        with ray_session() as session:
            check_fits(cfg, session.resources.get("CPU", 0.0), session.resources.get("GPU", 0.0))
            fleet = launch_ppo(cfg, records, run_dir)
            _train(cfg, fleet, run_dir, resume)
            fleet.policy.collective("export", str((run_dir / MODEL_DIR).resolve()))
    return run_dir


def _train(cfg: PPOConfig, fleet: Fleet, run_dir: Path, resume: bool) -> None:
    a = cfg.algorithm
    kl = AdaptiveKL(a.kl_coef, a.kl_target, a.kl_horizon)
    first, kl = _restore(cfg, fleet, run_dir, kl) if resume else (0, kl)
    if not first:
        discard(run_dir)
        shutil.rmtree(run_dir / ROLLOUTS_DIR, ignore_errors=True)
    encoder = load_encoder(cfg.policy.path)
    samples = a.prompts_per_step * a.n_samples_per_prompt
    with (
        MetricsWriter(run_dir, "ppo", resume_step=first if resume else None) as writer,
        Progress("PPO", cfg.steps, "step", start=first) as progress,
    ):
        for step in range(first, cfg.steps):
            _, experience, metrics = ppo_step(step, fleet, cfg, kl.kl_coef)
            kl = kl.update(metrics["kl"], samples)
            write_rollouts(run_dir, step, encoder, experience, cfg.rollouts_logged)
            writer.log(step, metrics)
            progress.update(step + 1, samples, **{name: metrics[name] for name in _SHOWN})
            if (step + 1) % cfg.checkpoint.every_steps == 0 and step + 1 < cfg.steps:
                _save(cfg, fleet, run_dir, step + 1, kl)


def _save(cfg: PPOConfig, fleet: Fleet, run_dir: Path, done: int, kl: AdaptiveKL) -> None:
    staged = stage(run_dir, done)
    for role, group in (("policy", fleet.policy), ("critic", fleet.critic)):
        group.collective("save", str((staged / role).resolve()))
    manifest = Manifest(
        step=done,
        prompt_cursor=done * cfg.algorithm.prompts_per_step,
        policy_version=done,
        seed=cfg.seed,
        ranks={"policy": len(fleet.policy.group), "critic": len(fleet.critic.group)},
        kl=kl.to_dict(),
    )
    publish(staged, manifest, cfg.checkpoint.keep)


def _restore(cfg: PPOConfig, fleet: Fleet, run_dir: Path, kl: AdaptiveKL) -> tuple[int, AdaptiveKL]:
    """Load the newest complete checkpoint. Without one the run starts at step 0."""
    found = newest_complete(run_dir)
    if found is None:
        return 0, kl
    path, manifest = found
    ranks = {"policy": len(fleet.policy.group), "critic": len(fleet.critic.group)}
    cursor = manifest.step * cfg.algorithm.prompts_per_step
    for key, was, now in (
        ("seed", manifest.seed, cfg.seed),
        ("learner ranks", manifest.ranks, ranks),
        ("prompt cursor (algorithm.prompts_per_step)", manifest.prompt_cursor, cursor),
    ):
        if was != now:
            raise RunError(f"{path}: {key} was {was}, is now {now}; resume with what the run was started with")
    for role, group in (("policy", fleet.policy), ("critic", fleet.critic)):
        group.collective("load", str((path / role).resolve()))
    fleet.weight_sync.push(policy_version=manifest.policy_version)
    return manifest.step, AdaptiveKL.from_dict(manifest.kl)
