"""From rollouts and what the roles said of them to EXPERIENCE, and how it is divided among learner ranks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from mmrlhf_ray.algorithms.advantages import ESTIMATORS, WHITEN_DEFAULT, gae, overlong_penalty, token_rewards, whiten
from mmrlhf_ray.algorithms.aggregation import loss_denominator
from mmrlhf_ray.algorithms.kl import kl_estimate
from mmrlhf_ray.algorithms.mismatch import mismatch_stats, mismatch_weights
from mmrlhf_ray.algorithms.statistics import RunningMoments
from mmrlhf_ray.config.algorithm import AlgorithmConfig
from mmrlhf_ray.data.batches.batching import Shard, padding_share, plan_shards
from mmrlhf_ray.rollout.batch import Rollouts
from mmrlhf_ray.schema import EXPERIENCE, check
from mmrlhf_ray.workers.roles.learner import Learners


@dataclass(frozen=True)
class Answers:
    """The roles' answers on a step's rollouts, row by row."""

    scores: Sequence[float]
    """Mixed over the reward components."""
    ref_logprobs: list[np.ndarray]
    old_logprobs: list[np.ndarray]
    values: list[np.ndarray] | None
    """None without a critic."""


@dataclass(frozen=True)
class Experience:
    """A step's EXPERIENCE table and what is worth reporting of it."""

    table: pa.Table
    response_kl: np.ndarray
    """Sum over tokens of k1 to the reference, per response, nats."""
    moments: dict[str, RunningMoments]
    """Of scores, this step's counted."""
    metrics: dict[str, float]


def make_experience(
    rollouts: Rollouts,
    answers: Answers,
    kl_coef: float,
    algorithm: AlgorithmConfig,
    max_response_tokens: int,
    moments: Mapping[str, RunningMoments],
) -> Experience:
    """Rewards, advantages and returns of every response token.

    Raises ValueError where a role's answer has another length than the response.
    """
    table = rollouts.table
    sampled_rows = table.column("rollout_logprobs").to_pylist()
    lengths = [len(row) for row in sampled_rows]
    values_rows = [np.zeros(n) for n in lengths] if answers.values is None else answers.values
    rows = {"ref_logprobs": answers.ref_logprobs, "old_logprobs": answers.old_logprobs, "values": values_rows}
    for name, got in rows.items():
        _check_lengths(name, got, lengths)
    width = max(lengths)
    mask = _grid(table.column("response_mask").to_pylist(), width).bool()
    grids = {name: _grid(row, width) for name, row in rows.items()}
    old, ref, sampled = grids["old_logprobs"], grids["ref_logprobs"], _grid(sampled_rows, width)
    raw_scores = torch.tensor(answers.scores, dtype=torch.float64)
    if len(raw_scores) != len(table):
        raise ValueError(f"scores: {len(raw_scores)} for {len(table)} responses")
    scores, moments = shape_scores(raw_scores, table, algorithm, max_response_tokens, moments)
    in_reward = kl_coef if algorithm.kl_in == "reward" else 0.0
    rewards = token_rewards(scores, kl_estimate(old, ref, algorithm.kl_estimator), mask, in_reward)
    advantages, returns = _advantages(rewards, grids["values"], mask, table, algorithm)
    grids |= {"rewards": rewards, "advantages": advantages, "returns": returns}
    response_kl = ((old - ref) * mask).sum(1).numpy()
    metrics = {
        "score": float(raw_scores.mean()),
        "score_std": float(raw_scores.std(correction=0)),
        "kl": float(response_kl.mean()),
        "reward": float((rewards * mask).sum(1).mean()),
        "response_tokens": float(np.mean(lengths)),
        "unfinished": float(np.mean([r != "stop" for r in table.column("finish_reason").to_pylist()])),
        "entropy": float(-(old[mask]).mean()),
        **_mismatch(old, sampled, mask, algorithm),
    }
    return Experience(_table(table, scores, grids, lengths), response_kl, moments, metrics)


def _check_lengths(name: str, rows: Sequence[np.ndarray], lengths: Sequence[int]) -> None:
    got = [len(row) for row in rows]
    if got != list(lengths):
        row = next(i for i, (g, n) in enumerate(zip(got, lengths, strict=True)) if g != n)
        raise ValueError(f"{name}: row {row} has {got[row]} numbers for {lengths[row]} response tokens")


def _grid(rows: Sequence[Sequence[float] | np.ndarray], width: int) -> Tensor:
    """Ragged rows as [B, T] in float64, zero beyond their ends."""
    out = torch.zeros(len(rows), width, dtype=torch.float64)
    for i, row in enumerate(rows):
        out[i, : len(row)] = torch.tensor(np.asarray(row, dtype=np.float64))
    return out


def shape_scores(
    scores: Tensor,
    table: pa.Table,
    algorithm: AlgorithmConfig,
    max_response_tokens: int,
    moments: Mapping[str, RunningMoments],
) -> tuple[Tensor, dict[str, RunningMoments]]:
    """Scores [B] after the overlong penalty, running normalisation and clipping, and the moments after this step."""
    if algorithm.overlong is not None:
        lengths = torch.tensor([sum(row) for row in table.column("response_mask").to_pylist()])
        overlong = algorithm.overlong
        scores = scores + overlong_penalty(lengths, max_response_tokens, overlong.buffer_tokens, overlong.penalty)
    known = dict(moments)
    if algorithm.score_normalisation != "none":
        by = algorithm.score_normalisation
        keys = ["all"] * len(table) if by == "all" else table.column(by).to_pylist()
        scores = scores.clone()
        for key in sorted(set(keys)):
            rows = torch.tensor([i for i, k in enumerate(keys) if k == key])
            known[key] = known.get(key, RunningMoments()).update(scores[rows].numpy())
            scores[rows] = torch.from_numpy(known[key].normalise(scores[rows].numpy()))
    if algorithm.score_clip is not None:
        scores = scores.clamp(-algorithm.score_clip, algorithm.score_clip)
    return scores, known


def _advantages(
    rewards: Tensor, values: Tensor, mask: Tensor, table: pa.Table, algorithm: AlgorithmConfig
) -> tuple[Tensor, Tensor]:
    """Advantages and returns [B, T]; without a critic nobody reads returns and they are zero."""
    name = algorithm.advantage_estimator
    if algorithm.has_critic:
        advantages, returns = gae(rewards, values, mask, algorithm.gamma, algorithm.gae_lambda)
    else:
        groups = torch.tensor(table.column("group_id").to_pylist())
        advantages, returns = ESTIMATORS[name](rewards, mask, groups, algorithm.gamma), torch.zeros_like(rewards)
    return whiten(advantages, mask, algorithm.whiten or WHITEN_DEFAULT[name]), returns


def _mismatch(old: Tensor, sampled: Tensor, mask: Tensor, algorithm: AlgorithmConfig) -> dict[str, float]:
    chosen = algorithm.mismatch
    weights = mismatch_weights(old, sampled, mask, chosen.correction, chosen.low, chosen.high)
    return {name: float(value) for name, value in mismatch_stats(old, sampled, mask, weights).items()}


def _table(rollouts: pa.Table, scores: Tensor, grids: Mapping[str, Tensor], lengths: Sequence[int]) -> pa.Table:
    experience = rollouts.append_column(EXPERIENCE.field("score"), pa.array(scores.tolist(), pa.float32()))
    for name, grid in grids.items():
        ragged = [grid[i, :n].tolist() for i, n in enumerate(lengths)]
        experience = experience.append_column(EXPERIENCE.field(name), pa.array(ragged, EXPERIENCE.field(name).type))
    return check(experience.select(EXPERIENCE.names), EXPERIENCE, "make_experience")


@dataclass(frozen=True)
class Plan:
    """Optimizer steps of one learner group."""

    shards: list[Shard]
    denominators: list[float]
    """Of each optimizer step's loss, over all ranks."""
    padding_share: float


def shard_by_tokens(
    experience: pa.Table,
    rollouts: Rollouts,
    group: Learners,
    steps: list[list[int]],
    aggregation: str,
    max_response_tokens: int,
) -> Plan:
    """Divide the rows of each optimizer step among the ranks, so that each has about as many tokens."""
    lengths = rollouts.lengths
    shards = plan_shards(lengths, rollouts.kinds, steps, len(group.group), group.budget)
    tokens = [sum(row) for row in experience.column("response_mask").to_pylist()]
    denominators = [loss_denominator([tokens[row] for row in step], aggregation, max_response_tokens) for step in steps]
    return Plan(shards, denominators, padding_share(shards, lengths))


def mini_batches(rows: int, count: int, epochs: int, rng: np.random.Generator) -> list[list[int]]:
    """The rows of each optimizer step: every epoch a new shuffle, cut into `count` parts of almost equal size.

    A step that lost rows makes its parts smaller, not fewer, so that the learning-rate schedule stays in step. Fewer
    rows than parts give as many parts as there are rows.
    """
    steps: list[list[int]] = []
    for _ in range(epochs):
        steps += [part.tolist() for part in np.array_split(rng.permutation(rows), min(count, rows))]
    return steps
