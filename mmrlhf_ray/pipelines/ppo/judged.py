"""Responses with all that was said of them: while they are being judged, as groups in the buffer, and as a batch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray

from mmrlhf_ray.config import PPOConfig
from mmrlhf_ray.data.batches.ragged import Ragged
from mmrlhf_ray.rewards.scores import ComponentScores
from mmrlhf_ray.rollout.batch import Rollouts, concat_rollouts
from mmrlhf_ray.workers.fleet import Fleet
from mmrlhf_ray.workers.roles.answers import Pending
from mmrlhf_ray.workers.roles.functions import PendingScores


@dataclass(frozen=True)
class Judged:
    """Responses that were asked about together, and the answers, row by row."""

    rollouts: Rollouts
    scores: Mapping[str, ComponentScores]
    """Of each reward component."""
    tokens: Mapping[str, Ragged]
    """`ref_logprobs` where a reference was asked, and whatever else was asked for per token; of
    `teacher_distributions` many numbers for each."""
    seconds: Mapping[str, float]
    """Stage → seconds of its slowest actor."""


@dataclass(frozen=True)
class Judging:
    """Responses that are being judged."""

    rollouts: Rollouts
    scores: PendingScores
    tokens: Mapping[str, Pending]

    @property
    def refs(self) -> list["ray.ObjectRef[Any]"]:
        """What must be there for result() not to block."""
        return [*self.scores.refs, *(ref for pending in self.tokens.values() for ref in pending.refs)]

    @property
    def names(self) -> list[str]:
        """Of the actors that were asked."""
        return [*self.scores.names, *(name for pending in self.tokens.values() for name in pending.names)]

    def result(self) -> Judged:
        """All answers. Raises what a role raised, DeadlineExceeded."""
        scores, seconds = self.scores.result()
        found = {name: pending.result() for name, pending in self.tokens.items()}
        times = {"score": seconds} | {name: s for name, (_, s) in found.items()}
        return Judged(self.rollouts, scores, {name: numbers for name, (numbers, _) in found.items()}, times)


@dataclass(frozen=True)
class Group:
    """One prompt's responses among those that were judged together."""

    judged: Judged
    rows: range


def batch_of(groups: Sequence[Group]) -> Judged:
    """The groups one after the other; seconds are summed over what was judged together."""
    parts = list({id(group.judged): group.judged for group in groups}.values())
    starts: dict[int, int] = {}
    count = 0
    for part in parts:
        starts[id(part)] = count
        count += len(part.rollouts.table)
    joined = concat_judged(parts)
    rows = [starts[id(group.judged)] + row for group in groups for row in group.rows]
    if rows == list(range(count)):
        return joined
    return Judged(
        joined.rollouts.select(rows),
        {name: scores.select(rows) for name, scores in joined.scores.items()},
        {name: numbers.take(rows) for name, numbers in joined.tokens.items()},
        joined.seconds,
    )


def concat_judged(parts: Sequence[Judged]) -> Judged:
    """Responses of several calls as one; seconds are summed."""
    first = parts[0]
    if len(parts) == 1:
        return first
    return Judged(
        concat_rollouts([part.rollouts for part in parts]),
        {name: ComponentScores.concat([part.scores[name] for part in parts]) for name in first.scores},
        {name: Ragged.concat([part.tokens[name] for part in parts]) for name in first.tokens},
        {name: sum(part.seconds[name] for part in parts) for name in first.seconds},
    )


def ask_judges(fleet: Fleet, cfg: PPOConfig, rollouts: Rollouts, step: int) -> Judging:
    """Ask all that can be said of these responses before their batch is known; nothing blocks.

    What hangs on the learners' weights can where these stay as they are until the batch is trained on, and is asked for
    where all groups are.
    """
    judging = ask_scores(fleet, rollouts)
    if fleet.teachers is not None:
        judging = replace(judging, tokens={**judging.tokens, "teacher_distributions": fleet.teachers.teach(rollouts)})
    if cfg.stream.max_staleness == 0 and cfg.algorithm.dynamic_sampling is None:
        return replace(judging, tokens={**judging.tokens, **ask_learners(fleet, cfg, rollouts, step)})
    return judging


def ask_scores(fleet: Fleet, rollouts: Rollouts) -> Judging:
    """Ask rewards and, where there is one, the reference; nothing blocks."""
    fleet.begin("judge")
    reference = {} if fleet.reference is None else {"ref_logprobs": fleet.reference.ask(rollouts)}
    return Judging(rollouts, fleet.rewards.ask(rollouts), reference)


def ask_learners(fleet: Fleet, cfg: PPOConfig, rollouts: Rollouts, step: int) -> dict[str, Pending]:
    """`values`, and `old_logprobs` where the step has them from a pass of the learner's own; nothing blocks."""
    asked = {"old_logprobs": fleet.policy.infer(rollouts)} if old_logprobs_from(step, cfg) == "learner" else {}
    return asked | ({"values": fleet.critic.infer(rollouts)} if fleet.critic else {})


def old_logprobs_from(step: int, cfg: PPOConfig) -> str:
    """Who gives `old_logprobs`: `learner`, `update` or `sampler`."""
    lora = cfg.learner.lora
    return cfg.algorithm.old_logprobs_from(step, lora.dropout if lora else 0.0)
