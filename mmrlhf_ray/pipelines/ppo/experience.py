"""From rollouts and what the roles said of them to EXPERIENCE, and how it is divided among learner ranks."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from mmrlhf_ray.algorithms.advantages import (
    OUTCOME_ESTIMATORS,
    TOKEN_ESTIMATORS,
    WHITEN_DEFAULT,
    gae,
    overlong_penalty,
    token_rewards,
    turns_to_go,
    whiten_,
)
from mmrlhf_ray.algorithms.aggregation import loss_denominator
from mmrlhf_ray.algorithms.kl import kl_estimate
from mmrlhf_ray.algorithms.mismatch import flat_mismatch_weights, mismatch_stats
from mmrlhf_ray.algorithms.segments import check_rows, row_sums, spread
from mmrlhf_ray.algorithms.statistics import RunningMoments, Stats, mean_stats, merge_stats
from mmrlhf_ray.config.algorithm import AlgorithmConfig
from mmrlhf_ray.data.batches.batching import Shard, padding_share, plan_shards
from mmrlhf_ray.data.batches.ragged import Ragged
from mmrlhf_ray.rollout.batch import Rollouts
from mmrlhf_ray.rollout.episode import turn_rewards
from mmrlhf_ray.schema import EXPERIENCE, check
from mmrlhf_ray.workers.roles.learner import Learners

_CHUNK_TOKENS = 1 << 17
"""Tokens whose rewards are computed at a time, in float64; bounds the memory that this takes."""


@dataclass(frozen=True)
class Answers:
    """The roles' answers on a step's rollouts, row by row."""

    scores: Sequence[float]
    """Mixed over the reward components."""
    ref_logprobs: Ragged | None
    """None where nothing uses them."""
    old_logprobs: Ragged | None
    """None: the update will give them, see `with_old_logprobs()`."""
    values: Ragged | None
    """None without a critic."""
    sampler_serves: bool = False
    """`old_logprobs` are the sampler's, which say nothing of how far the learner is from it."""
    teachers: Ragged | None = None
    """Column `teacher_distributions`; None without teachers."""
    turns: Sequence[Sequence[float]] = ()
    """What of each row's score counts at its turns (Mixed.turns); () where nothing does."""


@dataclass(frozen=True)
class Experience:
    """A step's EXPERIENCE table and what is worth reporting of it."""

    table: pa.Table
    response_kl: np.ndarray
    """Sum over tokens of k1 to the reference, per response, nats; NaN without one, and while `old_logprobs` are to
    come."""
    referenced: bool
    """Whether a reference was asked. Without one the column `ref_logprobs` is NaN, and there is no metric of the KL."""
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

    Raises ValueError where a role's answer has another length than the response, or where the KL in the reward needs
    `old_logprobs` that are to come, or `ref_logprobs` that are not there.
    """
    table, old, ref = rollouts.table, answers.old_logprobs, answers.ref_logprobs
    tokens = _Tokens.of(table)
    columns = {
        "ref_logprobs": tokens.unknown() if ref is None else ref,
        "old_logprobs": tokens.unknown() if old is None else old,
        "values": tokens.zeros() if answers.values is None else answers.values,
    }
    for name, column in columns.items():
        _check_lengths(name, column.lengths, tokens.sampled.lengths)
    raw_scores = torch.tensor(answers.scores, dtype=torch.float64)
    if len(raw_scores) != len(table):
        raise ValueError(f"scores: {len(raw_scores)} for {len(table)} responses")
    scores, moments = shape_scores(raw_scores, tokens.kept, table, algorithm, max_response_tokens, moments)
    in_reward = kl_coef if algorithm.kl_in == "reward" else 0.0
    if in_reward and old is None:
        raise ValueError("old_logprobs: the KL in the reward needs them before the update, got None")
    if kl_coef and ref is None:
        raise ValueError(f"ref_logprobs: kl_coef={kl_coef:g} needs them, got None")
    groups = torch.from_numpy(table.column("group_id").to_numpy().copy())
    of_turns = turn_rewards(table, answers.turns) if answers.turns else None
    made = _per_token(tokens, columns, scores, in_reward, algorithm, groups, of_turns)
    metrics = {
        "score": float(raw_scores.mean()),
        "score_std": float(raw_scores.std(correction=0)),
        "reward": float(made.outcomes.mean()),
        "response_tokens": float(tokens.kept.double().mean()),
        "unfinished": float(np.mean([r != "stop" for r in table.column("finish_reason").to_pylist()])),
    }
    teachers = answers.teachers or Ragged(np.zeros(0, np.float32), np.zeros(len(table) + 1, np.int64))
    made_table = _table(table, scores, columns | made.columns | {"teacher_distributions": teachers})
    experience = Experience(made_table, np.full(len(table), math.nan), ref is not None, moments, metrics)
    return experience if old is None else _measured(experience, algorithm, answers.sampler_serves)


def with_old_logprobs(experience: Experience, old_logprobs: Ragged, algorithm: AlgorithmConfig) -> Experience:
    """The experience with the `old_logprobs` that the update gave, and what is measured with them."""
    place = experience.table.column_names.index("old_logprobs")
    table = experience.table.set_column(place, EXPERIENCE.field("old_logprobs"), old_logprobs.to_arrow())
    complete = replace(experience, table=check(table, EXPERIENCE, "with_old_logprobs"))
    return _measured(complete, algorithm, sampler_serves=False)


def _measured(experience: Experience, algorithm: AlgorithmConfig, sampler_serves: bool) -> Experience:
    """With the metrics that `old_logprobs` are for: KL, entropy, and the mismatch unless they are the sampler's."""
    tokens, stats = _Tokens.of(experience.table), []
    old_column, ref_column = (Ragged.of_column(experience.table.column(n)) for n in ("old_logprobs", "ref_logprobs"))
    kl = torch.full((len(tokens.sampled),), math.nan, dtype=torch.float64)
    for rows, own in tokens.chunks():
        kept, old = tokens.kept[rows], tokens.read(old_column, own)
        if experience.referenced:
            kl[rows] = row_sums(old - tokens.read(ref_column, own), kept)
        found: Stats = {"tokens": kept.sum(), "entropy": -old.sum()}
        if not sampler_serves:
            chosen, sampled = algorithm.mismatch, tokens.read(tokens.sampled, own)
            weights = flat_mismatch_weights(old, sampled, kept, chosen.correction, chosen.low, chosen.high)
            found |= mismatch_stats(old, sampled, weights)
        stats.append(found)
    metrics = experience.metrics | mean_stats(merge_stats(stats), "tokens")
    metrics |= {"kl": float(kl.mean())} if experience.referenced else {}
    del metrics["tokens"]
    return replace(experience, response_kl=kl.numpy(), metrics=metrics)


def _check_lengths(name: str, got: np.ndarray, lengths: np.ndarray) -> None:
    if len(got) != len(lengths):
        raise ValueError(f"{name}: {len(got)} rows for {len(lengths)} responses")
    if (got != lengths).any():
        row = int((got != lengths).argmax())
        raise ValueError(f"{name}: row {row} has {got[row]} numbers for {lengths[row]} response tokens")


@dataclass(frozen=True)
class _Tokens:
    """A step's response tokens, and which of them are trained on."""

    sampled: Ragged
    """Column `rollout_logprobs`."""
    mask: np.ndarray | None
    """Column `response_mask`, bool [N]; None = every token is trained on."""
    kept: Tensor
    """How many are trained on of each row, int64 [B]."""

    @classmethod
    def of(cls, table: pa.Table) -> "_Tokens":
        sampled, mask = (Ragged.of_column(table.column(name)) for name in ("rollout_logprobs", "response_mask"))
        if mask.values.all():
            return cls(sampled, None, torch.from_numpy(sampled.lengths))
        return cls(sampled, mask.values, torch.from_numpy(mask.sums().astype(np.int64)))

    def zeros(self) -> Ragged:
        """A column of zeros."""
        return Ragged(np.zeros(len(self.sampled.values), np.float32), self.sampled.offsets)

    def unknown(self) -> Ragged:
        """A column of NaN."""
        return Ragged(np.full(len(self.sampled.values), math.nan, np.float32), self.sampled.offsets)

    def chunks(self) -> list[tuple[slice, slice]]:
        """Rows and tokens of each chunk."""
        offsets = self.sampled.offsets
        cuts = np.searchsorted(offsets, np.arange(0, offsets[-1], _CHUNK_TOKENS))
        bounds = np.unique([*cuts, len(self.sampled)]).tolist()
        rows = [slice(first, last) for first, last in pairwise(bounds)]
        return [(own, slice(int(offsets[own.start]), int(offsets[own.stop]))) for own in rows]

    def read(self, column: Ragged, tokens: slice) -> Tensor:
        """Those of a chunk's tokens that are trained on, in float64."""
        values = column.values[tokens] if self.mask is None else column.values[tokens][self.mask[tokens]]
        return torch.from_numpy(values.astype(np.float64))

    def write(self, column: Ragged, tokens: slice, values: Tensor) -> None:
        """The inverse of read(); the other tokens keep what they had."""
        if self.mask is None:
            column.values[tokens] = values.numpy()
        else:
            column.values[tokens][self.mask[tokens]] = values.numpy()


@dataclass(frozen=True)
class _Made:
    """Computed of a step's tokens."""

    columns: dict[str, Ragged]
    outcomes: Tensor
    """Rewards of each row, summed over its tokens, float64 [B]."""


def _per_token(
    tokens: _Tokens,
    columns: Mapping[str, Ragged],
    scores: Tensor,
    kl_coef: float,
    algorithm: AlgorithmConfig,
    groups: Tensor,
    of_turns: np.ndarray | None,
) -> _Made:
    """Chunk by chunk; only what compares responses or all tokens is computed over the entire step. of_turns: rewards at
    the last tokens of turns, float64 [tokens of all rows], which the scores have as well."""
    check_rows(tokens.kept)
    name, everything = algorithm.advantage_estimator, slice(0, len(tokens.sampled.values))
    rewards, advantages = tokens.zeros(), tokens.zeros()
    returns = tokens.zeros() if algorithm.has_critic else columns["values"]  # without a critic no one reads either
    flat, done = torch.empty(int(tokens.kept.sum()), dtype=torch.float64), 0
    at_turns = torch.zeros(0) if of_turns is None else tokens.read(Ragged(of_turns, tokens.sampled.offsets), everything)
    in_turns = torch.zeros_like(scores) if of_turns is None else row_sums(at_turns, tokens.kept)
    scores, compared = scores - in_turns, torch.zeros_like(scores)
    for rows, own in tokens.chunks():
        kept = tokens.kept[rows]
        there = slice(done, done := done + int(kept.sum()))
        if kl_coef:
            old, ref = (tokens.read(columns[column], own) for column in ("old_logprobs", "ref_logprobs"))
            kl = kl_estimate(old, ref, algorithm.kl_estimator)
        else:
            kl = torch.zeros(int(kept.sum()), dtype=torch.float64)
        of_tokens = token_rewards(scores[rows], kl, kept, kl_coef)
        compared[rows] = row_sums(of_tokens, kept)
        if of_turns is not None:
            of_tokens += at_turns[there]
        tokens.write(rewards, own, of_tokens)
        if algorithm.has_critic:
            values = tokens.read(columns["values"], own)
            flat[there], to_go = gae(of_tokens, values, kept, algorithm.gamma, algorithm.gae_lambda)
            tokens.write(returns, own, to_go)
        elif name in TOKEN_ESTIMATORS:
            flat[there] = TOKEN_ESTIMATORS[name](of_tokens, kept, algorithm.gamma)
    if name in OUTCOME_ESTIMATORS:
        flat = spread(OUTCOME_ESTIMATORS[name](compared, groups), tokens.kept)
        if of_turns is not None:
            flat += turns_to_go(at_turns, tokens.kept)
    tokens.write(advantages, everything, whiten_(flat, algorithm.whiten or WHITEN_DEFAULT[name]))
    return _Made({"rewards": rewards, "advantages": advantages, "returns": returns}, compared + in_turns)


def _table(rollouts: pa.Table, scores: Tensor, columns: Mapping[str, Ragged]) -> pa.Table:
    made = {name: column.to_arrow() for name, column in columns.items()} | {
        "score": pa.array(scores.numpy(), pa.float32())
    }
    for name, column in made.items():
        rollouts = rollouts.append_column(EXPERIENCE.field(name), column)
    return check(rollouts.select(EXPERIENCE.names), EXPERIENCE, "make_experience")


def shape_scores(
    scores: Tensor,
    lengths: Tensor,
    table: pa.Table,
    algorithm: AlgorithmConfig,
    max_response_tokens: int,
    moments: Mapping[str, RunningMoments],
) -> tuple[Tensor, dict[str, RunningMoments]]:
    """Scores [B] after the overlong penalty, running normalisation and clipping, and the moments after this step.

    lengths: tokens of each row that are trained on, int64 [B].
    """
    if algorithm.overlong is not None:
        overlong = algorithm.overlong
        scores = scores + overlong_penalty(lengths, max_response_tokens, overlong.buffer_tokens, overlong.penalty)
    known = dict(moments)
    if algorithm.score_normalisation != "none":
        by = algorithm.score_normalisation
        keys = np.array(["all"] * len(table) if by == "all" else table.column(by).to_pylist())
        scores = scores.clone()
        for key in np.unique(keys).tolist():
            rows = torch.from_numpy((keys == key).nonzero()[0])
            known[key] = known.get(key, RunningMoments()).update(scores[rows].numpy())
            scores[rows] = torch.from_numpy(known[key].normalise(scores[rows].numpy()))
    if algorithm.score_clip is not None:
        scores = scores.clamp(-algorithm.score_clip, algorithm.score_clip)
    return scores, known


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
    lengths, prompts = rollouts.lengths, rollouts.shared()
    shards = plan_shards(lengths, rollouts.kinds, steps, group.shares, group.budget, prompts)
    tokens = _Tokens.of(experience).kept
    denominators = [loss_denominator(tokens[step].tolist(), aggregation, max_response_tokens) for step in steps]
    return Plan(shards, denominators, padding_share(shards, lengths, prompts))


def mini_batches(groups: Sequence[int], count: int, epochs: int, rng: np.random.Generator) -> list[list[int]]:
    """The rows of each optimizer step: every epoch a new shuffle, cut into `count` parts of almost as many groups.

    groups: of each row; rows of a group stay together, so that its prompt is computed for one optimizer step of an
    epoch only. A step that lost rows makes its parts smaller, not fewer, so that the learning-rate schedule stays in
    step. Fewer groups than parts give as many parts as there are groups.
    """
    own: dict[int, list[int]] = {}
    for row, group in enumerate(groups):
        own.setdefault(group, []).append(row)
    rows = list(own.values())
    steps: list[list[int]] = []
    for _ in range(epochs):
        parts = np.array_split(rng.permutation(len(rows)), min(count, len(rows)))
        steps += [[row for group in part.tolist() for row in rows[group]] for part in parts]
    return steps
