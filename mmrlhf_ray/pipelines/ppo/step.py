"""One online step, the algorithm on one screen: take a batch from the stream, make experience, learn, push."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import numpy as np
import ray

from mmrlhf_ray.config import AlgorithmConfig, PPOConfig
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
from mmrlhf_ray.pipelines.ppo.gate import check_agreement
from mmrlhf_ray.pipelines.ppo.judged import Judged, ask_learners, old_logprobs_from
from mmrlhf_ray.pipelines.ppo.state import DriverState
from mmrlhf_ray.pipelines.ppo.step_metrics import critic_metrics, policy_metrics, rates, stream_metrics
from mmrlhf_ray.pipelines.ppo.stream import Stream
from mmrlhf_ray.pipelines.ppo.verdicts import all_scores
from mmrlhf_ray.rewards.batch import Rows
from mmrlhf_ray.rewards.mixture import mix
from mmrlhf_ray.rewards.scores import ComponentScores
from mmrlhf_ray.rollout.batch import Rollouts
from mmrlhf_ray.rollout.episode import turn_metrics
from mmrlhf_ray.rollout.groups import in_company
from mmrlhf_ray.training.profiling import step_dir
from mmrlhf_ray.workers.fleet import Fleet

T = TypeVar("T")
_STAGES = {"ref_logprobs": "reference", "teacher_distributions": "teachers"}
"""What was asked for per token → the stage, where it has another name."""


@dataclass(frozen=True)
class Step:
    """The results of one step."""

    experience: Experience
    state: DriverState
    metrics: dict[str, float]
    warnings: tuple[str, ...]
    rollouts: Rollouts
    """Row by row those of `experience`."""
    components: Mapping[str, ComponentScores]
    """Each reward component's numbers for them, as they came."""


def ppo_step(fleet: Fleet, stream: Stream, cfg: PPOConfig, state: DriverState) -> Step:
    """One step: take a batch, make experience, learn, push."""
    started, clock, step = time.monotonic(), _Clock(), stream.version
    batch = stream.take(state.mixture)
    judged, rollouts = batch.judged, batch.judged.rollouts
    answered = _answered(fleet, stream, cfg, judged, clock)

    scores = all_scores(cfg, judged)
    mixed = mix(cfg.rewards, scores, Rows.of(rollouts.table), state.mixture)
    answers = replace(answered, scores=mixed.scores, turns=mixed.turns)
    keep = comparable(rollouts, mixed.keep, cfg.algorithm)
    rollouts, answers = drop_rows(rollouts, answers, keep)
    longest = cfg.sampling.max_response_tokens
    experience = make_experience(rollouts, answers, state.kl.kl_coef, cfg.algorithm, longest, state.moments)
    if answers.old_logprobs is not None:
        check_agreement(experience, cfg, step)
    fleet.begin("learn")
    learned, own_old_logprobs = _learn(fleet, stream, cfg, rollouts, experience, state.kl.kl_coef)
    if own_old_logprobs is not None:
        experience = with_old_logprobs(experience, own_old_logprobs, cfg.algorithm)
        check_agreement(experience, cfg, step)
    pushing = time.monotonic()
    pushed = stream.push()

    clock.noted("push", (None, time.monotonic() - pushing))
    clock.noted("step", (None, time.monotonic() - started))
    counts = {
        "weight_bytes": float(pushed),
        "kl_coef": state.kl.kl_coef,
        "responses": float(len(rollouts.table)),
        "without_score": float(batch.passed.without_score),
    }
    metrics = experience.metrics | turn_metrics(rollouts.table) | mixed.metrics | learned
    metrics |= stream_metrics(batch) | clock.seconds | counts
    metrics |= rates(metrics, cfg.roles)
    state = DriverState(
        consumed=stream.consumed,
        kl=state.kl.update(experience.metrics["kl"], len(rollouts.table)) if experience.referenced else state.kl,
        mixture=mixed.state,
        moments=experience.moments,
        pass_rates=stream.pass_rates,
    )
    rows = [row for row, kept in enumerate(keep) if kept]
    components = {name: numbers.select(rows) for name, numbers in scores.items()}
    return Step(experience, state, metrics, tuple(batch.passed.warnings), rollouts, components)


def _answered(fleet: Fleet, stream: Stream, cfg: PPOConfig, judged: Judged, clock: "_Clock") -> Answers:
    """What the roles say per token; what was not asked for with the scores is asked for now. Scores are to come."""
    tokens, rollouts, source = dict(judged.tokens), judged.rollouts, old_logprobs_from(stream.version, cfg)
    for name in ("old_logprobs", "values"):
        clock.noted(name, (None, 0.0))
    for name, seconds in judged.seconds.items():
        clock.noted(_STAGES.get(name, name), (None, seconds))
    if not tokens.keys() & {"old_logprobs", "values"}:
        asked = ask_learners(fleet, cfg, rollouts, stream.version)
        stream.tend([ref for pending in asked.values() for ref in pending.refs])
        tokens |= {name: clock.noted(name, pending.result()) for name, pending in asked.items()}
    sampled = Ragged.of_column(rollouts.table.column("rollout_logprobs")) if source == "sampler" else None
    old = tokens.get("old_logprobs", sampled)
    return Answers(
        (),
        tokens.get("ref_logprobs"),
        old,
        tokens.get("values"),
        sampler_serves=source == "sampler",
        teachers=tokens.get("teacher_distributions"),
    )


class _Clock:
    """Takes the seconds off the answers of a step's roles, for its metrics."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def noted(self, stage: str, answer: tuple[T, float]) -> T:
        """The answer alone; its seconds become the metric `seconds_<stage>`."""
        value, self.seconds[f"seconds_{stage}"] = answer
        return value


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
    ref, old, values, teachers = (
        None if column is None else column.take(rows)
        for column in (answers.ref_logprobs, answers.old_logprobs, answers.values, answers.teachers)
    )
    kept = Answers(
        [answers.scores[row] for row in rows],
        ref,
        old,
        values,
        answers.sampler_serves,
        teachers,
        [answers.turns[row] for row in rows] if answers.turns else (),
    )
    return rollouts.select(rows), kept


def _learn(
    fleet: Fleet, stream: Stream, cfg: PPOConfig, rollouts: Rollouts, experience: Experience, kl_coef: float
) -> tuple[dict[str, float], Ragged | None]:
    """Optimizer steps of critic and policy, side by side; and `old_logprobs` where the update gives them."""
    a, longest, step = cfg.algorithm, cfg.sampling.max_response_tokens, stream.version
    rng = np.random.default_rng((cfg.seed, step))
    count = a.prompts_per_step * a.n_samples_per_prompt // a.update_size
    divides = a.update_size % a.n_samples_per_prompt == 0
    groups = rollouts.table.column("group_id").to_pylist() if divides else range(len(rollouts.table))
    steps = mini_batches(groups, count, a.ppo_epochs, rng)
    table = ray.put(experience.table)
    learning = {"critic": "token_mean"} if fleet.critic else {}
    if step >= a.critic_warmup_steps:
        learning["policy"] = a.aggregation
    plans, started, metrics = {}, {}, {}
    reports: dict[str, Callable[[Mapping[str, float]], dict[str, float]]] = {"critic": critic_metrics}
    for role, aggregation in learning.items():
        group = fleet.learners[role]
        plans[role] = plan = shard_by_tokens(experience.table, rollouts, group, steps, aggregation, longest)
        own = role == "policy" and old_logprobs_from(step, cfg) == "update"
        traces = step_dir(cfg.run_dir, step) if cfg.traces(step) else None
        started[role] = group.update(table, rollouts, plan.shards, plan.denominators, kl_coef, own, traces)
        metrics["padding_share"] = plan.padding_share
        if role == "policy":
            reports[role] = partial(policy_metrics, denominator=sum(plan.denominators))
    stream.tend([ref for refs in started.values() for ref in refs])
    old_logprobs = None
    for role, refs in started.items():
        done = fleet.learners[role].finish_update(refs, plans[role].shards)
        metrics |= reports[role](done.stats) | {f"seconds_{role}_update": done.seconds}
        old_logprobs = old_logprobs if done.old_logprobs is None else done.old_logprobs
    return metrics, old_logprobs
