"""How rows are divided among the actors that answer for them, and how their answers come back together."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import ray

from mmrlhf_ray.data.batches.batching import PassBudget, Shard, one_pass_plan
from mmrlhf_ray.rollout.batch import Rollouts
from mmrlhf_ray.runtime.waits import deadline_get

Answer = tuple[list[np.ndarray], float]
"""One float32 array per row of the shard, in the shard's order, and the seconds it took."""


@dataclass(frozen=True)
class Pending:
    """Answers that are being computed: one array per row."""

    refs: Sequence["ray.ObjectRef[Answer]"]
    names: tuple[str, ...]
    shards: Sequence[Shard]
    deadline_s: float
    what: str
    """The stage, for messages."""

    def result(self) -> Answer:
        """Arrays in row order, and the seconds of the slowest actor."""
        answers = deadline_get(self.refs, self.deadline_s, self.what, self.names)
        rows: list[np.ndarray] = [np.empty(0, np.float32)] * sum(len(s.rows) for s in self.shards)
        for shard, (arrays, _) in zip(self.shards, answers, strict=True):
            for row, array in zip(shard.rows, arrays, strict=True):
                rows[row] = array
        return rows, max(seconds for _, seconds in answers)


def divide(rollouts: Rollouts, actors: int, budget: PassBudget, *, with_facts: bool = False) -> list[Shard]:
    """The rows for each of `actors`, about as many tokens for each, laid out in passes."""
    lengths = rollouts.lengths
    if with_facts:
        lengths = [tokens + facts for tokens, facts in zip(lengths, rollouts.facts, strict=True)]
    return one_pass_plan(lengths, rollouts.kinds, actors, budget)
