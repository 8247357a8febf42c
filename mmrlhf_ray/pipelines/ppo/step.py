"""One online step, the algorithm on one screen: sample, ask every role, make experience, learn, push."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import numpy as np
import ray

from mmrlhf_ray.config import AlgorithmConfig, FluencyReward, PPOConfig
from mmrlhf_ray.config.algorithm import GROUPED
from mmrlhf_ray.data.batches.ragged import Ragged
from mmrlhf_ray.errors import RunError
from mmrlhf_ray.pipelines.ppo.experience import (
    Answers,
    Experience,
    make_experience,
    mini_batches,
    shard_by_tokens,
    with_old_logprobs,
)
from mmrlhf_ray.pipelines.ppo.sampling import Sampled, sample
from mmrlhf_ray.pipelines.ppo.state import DriverState
from mmrlhf_ray.rewards.batch import Rows
from mmrlhf_ray.rewards.mixture import mix
from mmrlhf_ray.rewards.scores import ComponentScores
from mmrlhf_ray.rollout.batch import Rollouts
from mmrlhf_ray.rollout.groups import in_company
from mmrlhf_ray.workers.fleet import Fleet

T = TypeVar("T")


@dataclass(frozen=True)
class Step:
    """The results of one step."""

    experience: Experience
    state: DriverState
    metrics: dict[str, float]
    warnings: tuple[str, ...]


def ppo_step(step: int, fleet: Fleet, cfg: PPOConfig, state: DriverState) -> Step:
    """One step: sample, ask every role, learn, push."""
    started, clock = time.monotonic(), _Clock()
    sampled = sample(fleet, cfg, state)
    rollouts = sampled.rollouts
    reference = fleet.ask_reference(rollouts)  # four fan-outs, scores are on their way already
    source = _source(step, cfg)
    policy = fleet.policy.infer(rollouts) if source == "learner" else None
    critic = fleet.critic.infer(rollouts) if fleet.critic else None
    scores = clock.noted("score", sampled.scores())
    ref_logprobs = clock.noted("reference", reference.result())
    old_logprobs = clock.noted("old_logprobs", policy.result() if policy else (_served(rollouts, source), 0.0))
    values = clock.noted("values", critic.result() if critic else (None, 0.0))

    mixed = mix(cfg.rewards, scores | _fluency(cfg, ref_logprobs), Rows.of(rollouts.table), state.mixture)
    answers = Answers(mixed.scores, ref_logprobs, old_logprobs, values, sampler_serves=source == "sampler")
    rollouts, answers = drop_rows(rollouts, answers, comparable(rollouts, mixed.keep, cfg.algorithm))
    longest = cfg.sampling.max_response_tokens
    experience = make_experience(rollouts, answers, state.kl.kl_coef, cfg.algorithm, longest, state.moments)
    _gate(step, experience, cfg)
    learned, own_old_logprobs = _learn(step, fleet, cfg, rollouts, experience, state.kl.kl_coef)
    if own_old_logprobs is not None:
        experience = with_old_logprobs(experience, own_old_logprobs, cfg.algorithm)
    pushing = time.monotonic()
    pushed = fleet.push(policy_version=step + 1)

    clock.noted("push", (None, time.monotonic() - pushing))
    clock.noted("step", (None, time.monotonic() - started))
    counts = {
        "weight_bytes": float(pushed),
        "kl_coef": state.kl.kl_coef,
        "responses": float(len(rollouts.table)),
        "without_score": float(sampled.without_score + mixed.keep.count(False)),
    }
    metrics = experience.metrics | mixed.metrics | learned | _sampling_metrics(sampled) | clock.seconds | counts
    state = DriverState(
        cursor=sampled.cursor,
        kl=state.kl.update(experience.metrics["kl"], len(rollouts.table)),
        mixture=mixed.state,
        moments=experience.moments,
    )
    return Step(experience, state, metrics, (*sampled.warnings, *mixed.warnings))


class _Clock:
    """Takes the seconds off the answers of a step's roles, for its metrics."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def noted(self, stage: str, answer: tuple[T, float]) -> T:
        """The answer alone; its seconds become the metric `seconds_<stage>`."""
        value, self.seconds[f"seconds_{stage}"] = answer
        return value


def _sampling_metrics(sampled: Sampled) -> dict[str, float]:
    return {
        "seconds_encode": sampled.encoding.seconds,
        "seconds_generate": sampled.rollouts.seconds,
        "media_bytes": float(sampled.encoding.media_bytes),
        "media_bytes_unique": float(sampled.encoding.media_bytes_unique),
        "processor_calls": float(sampled.encoding.processor_calls),
        "sampling_rounds": float(sampled.rounds),
    }


def _fluency(cfg: PPOConfig, ref_logprobs: Ragged) -> dict[str, ComponentScores]:
    """Mean log p under the reference, for components that ask for it."""
    asked = [reward.name for reward in cfg.rewards if isinstance(reward, FluencyReward)]
    return {name: ComponentScores.of(ref_logprobs.means().tolist()) for name in asked}


def _source(step: int, cfg: PPOConfig) -> str:
    """Who gives `old_logprobs`: `learner`, `update` or `sampler`."""
    lora = cfg.learner.lora
    return cfg.algorithm.old_logprobs_from(step, lora.dropout if lora else 0.0)


def _served(rollouts: Rollouts, source: str) -> Ragged | None:
    """`old_logprobs` without a pass of their own: the sampler's, or None where the update will give them."""
    return Ragged.of_column(rollouts.table.column("rollout_logprobs")) if source == "sampler" else None


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
    values = None if answers.values is None else answers.values.take(rows)
    old = None if answers.old_logprobs is None else answers.old_logprobs.take(rows)
    scores = [answers.scores[row] for row in rows]
    kept = replace(
        answers, scores=scores, ref_logprobs=answers.ref_logprobs.take(rows), old_logprobs=old, values=values
    )
    return rollouts.select(rows), kept


def _gate(step: int, experience: Experience, cfg: PPOConfig) -> None:
    """Before the first update, sampler, learner and reference are the same model and must say so."""
    if step:
        return
    gaps = {"sampler and learner logprobs": experience.metrics["mismatch_max"]}
    if cfg.reference is None:
        old, ref = (Ragged.of_column(experience.table.column(n)).values for n in ("old_logprobs", "ref_logprobs"))
        gaps["policy/reference ratio"] = float(np.abs(np.expm1(old.astype(np.float64) - ref)).max())
    for what, gap in gaps.items():
        if not gap <= cfg.parity_gate:
            raise RunError(
                f"step 0: {what} differ by {gap:.2e}, more than parity_gate={cfg.parity_gate:g}; training would start "
                "from a wrong KL. Run `mmrlhf parity` on the policy, or raise parity_gate for low precision"
            )


def _learn(
    step: int, fleet: Fleet, cfg: PPOConfig, rollouts: Rollouts, experience: Experience, kl_coef: float
) -> tuple[dict[str, float], Ragged | None]:
    """Optimizer steps of critic and policy, side by side; and `old_logprobs` where the update gives them."""
    a, longest = cfg.algorithm, cfg.sampling.max_response_tokens
    rng = np.random.default_rng((cfg.seed, step))
    count = a.prompts_per_step * a.n_samples_per_prompt // a.mini_batch_size
    steps = mini_batches(len(experience.table), count, a.ppo_epochs, rng)
    table = ray.put(experience.table)
    learning = {"critic": "token_mean"} if fleet.critic else {}
    if step >= a.critic_warmup_steps:
        learning["policy"] = a.aggregation
    plans, started, metrics = {}, {}, {}
    reports: dict[str, Callable[[Mapping[str, float]], dict[str, float]]] = {"critic": _critic_metrics}
    for role, aggregation in learning.items():
        group = fleet.learners[role]
        plans[role] = plan = shard_by_tokens(experience.table, rollouts, group, steps, aggregation, longest)
        own = role == "policy" and _source(step, cfg) == "update"
        started[role] = group.update(table, rollouts.features, plan.shards, plan.denominators, kl_coef, own)
        metrics["padding_share"] = plan.padding_share
        if role == "policy":
            reports[role] = partial(_policy_metrics, denominator=sum(plan.denominators))
    old_logprobs = None
    for role, refs in started.items():
        done = fleet.learners[role].finish_update(refs, plans[role].shards)
        metrics |= reports[role](done.stats) | {f"seconds_{role}_update": done.seconds}
        old_logprobs = old_logprobs if done.old_logprobs is None else done.old_logprobs
    return metrics, old_logprobs


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
