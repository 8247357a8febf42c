"""From rollouts and what the roles said of them to EXPERIENCE, and how it is divided among learner ranks."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from mmrlhf_ray.algorithms.advantages import gae, token_rewards, whiten
from mmrlhf_ray.algorithms.kl import kl_estimate
from mmrlhf_ray.config.jobs import AlgorithmConfig
from mmrlhf_ray.data.batching import Shard, padding_share, plan_shards
from mmrlhf_ray.schema import EXPERIENCE, check
from mmrlhf_ray.workers.fleet import LearnerGroup, Rollouts


@dataclass(frozen=True)
class Answers:
    """What the roles said of a step's rollouts; one array per row."""

    scores: list[np.ndarray]
    ref_logprobs: list[np.ndarray]
    old_logprobs: list[np.ndarray]
    values: list[np.ndarray]


@dataclass(frozen=True)
class Experience:
    """A step's EXPERIENCE table and what is worth reporting of it."""

    table: pa.Table
    response_kl: np.ndarray
    """Sum over tokens of k1 to the reference, per response, nats."""
    metrics: dict[str, float]


def _grid(rows: Sequence[Sequence[float] | np.ndarray], width: int) -> Tensor:
    """Ragged rows as [B, T] in float64, zero beyond their ends."""
    out = torch.zeros(len(rows), width, dtype=torch.float64)
    for i, row in enumerate(rows):
        out[i, : len(row)] = torch.tensor(np.asarray(row, dtype=np.float64))
    return out


def make_experience(rollouts: Rollouts, answers: Answers, kl_coef: float, algorithm: AlgorithmConfig) -> Experience:
    """Rewards, advantages and returns of every response token.

    Raises ValueError where a role's answer has another length than the response.
    """
    table = rollouts.table
    sampled = table.column("rollout_logprobs").to_pylist()
    lengths = [len(row) for row in sampled]
    for name in ("ref_logprobs", "old_logprobs", "values"):
        got = [len(row) for row in getattr(answers, name)]
        if got != lengths:
            row = next(i for i, (g, n) in enumerate(zip(got, lengths, strict=True)) if g != n)
            raise ValueError(f"{name}: row {row} has {got[row]} numbers for {lengths[row]} response tokens")
    width = max(lengths)
    mask = _grid(table.column("response_mask").to_pylist(), width).bool()
    old, ref, values = (_grid(getattr(answers, n), width) for n in ("old_logprobs", "ref_logprobs", "values"))
    raw_scores = torch.tensor([float(s[0]) for s in answers.scores], dtype=torch.float64)
    scores = (
        raw_scores if algorithm.score_clip is None else raw_scores.clamp(-algorithm.score_clip, algorithm.score_clip)
    )
    rewards = token_rewards(scores, kl_estimate(old, ref, algorithm.kl_estimator), mask, kl_coef)
    advantages, returns = gae(rewards, values, mask, algorithm.gamma, algorithm.gae_lambda)
    if algorithm.whiten_advantages:
        advantages = whiten(advantages, mask)
    columns = {
        "rewards": rewards,
        "old_logprobs": old,
        "ref_logprobs": ref,
        "values": values,
        "advantages": advantages,
        "returns": returns,
    }
    experience = table.append_column(EXPERIENCE.field("score"), pa.array(scores.tolist(), pa.float32()))
    for name, grid in columns.items():
        ragged = [grid[i, :n].tolist() for i, n in enumerate(lengths)]
        experience = experience.append_column(EXPERIENCE.field(name), pa.array(ragged, EXPERIENCE.field(name).type))
    experience = check(experience.select(EXPERIENCE.names), EXPERIENCE, "make_experience")
    response_kl = ((old - ref) * mask).sum(1).numpy()
    gap = (_grid(sampled, width) - old)[mask].abs()
    metrics = {
        "score": float(raw_scores.mean()),
        "score_std": float(raw_scores.std(correction=0)),
        "kl": float(response_kl.mean()),
        "reward": float((rewards * mask).sum(1).mean()),
        "response_tokens": float(np.mean(lengths)),
        "unfinished": float(np.mean([r != "stop" for r in table.column("finish_reason").to_pylist()])),
        "entropy": float(-(old[mask]).mean()),
        "mismatch_max": float(gap.max()),
        "mismatch_mean": float(gap.mean()),
    }
    return Experience(experience, response_kl, metrics)


@dataclass(frozen=True)
class Plan:
    """Optimizer steps of one learner group."""

    shards: list[Shard]
    denominators: list[int]
    """Response tokens of each optimizer step over all ranks."""
    padding_share: float


def shard_by_tokens(experience: pa.Table, rollouts: Rollouts, group: LearnerGroup, steps: list[list[int]]) -> Plan:
    """Divide the rows of each optimizer step among the ranks, so that each has about as many tokens."""
    lengths = rollouts.lengths
    shards = plan_shards(lengths, rollouts.kinds, steps, len(group.group), group.budget)
    tokens = [sum(row) for row in experience.column("response_mask").to_pylist()]
    return Plan(shards, [sum(tokens[row] for row in step) for step in steps], padding_share(shards, lengths))


def mini_batches(rows: int, mini_batch_size: int, epochs: int, rng: np.random.Generator) -> list[list[int]]:
    """The rows of each optimizer step: every epoch a new shuffle."""
    steps = []
    for _ in range(epochs):
        order = rng.permutation(rows).tolist()
        steps += [order[i : i + mini_batch_size] for i in range(0, rows, mini_batch_size)]
    return steps
