"""How rows are divided among the actors that answer for them, and how their answers come back together."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import ray

from mmrlhf_ray.data.batches.batching import PassBudget, Shard, one_pass_plan
from mmrlhf_ray.data.batches.ragged import Ragged, gather
from mmrlhf_ray.errors import RoleFailed
from mmrlhf_ray.rollout.batch import Rollouts
from mmrlhf_ray.runtime.waits import deadline_get

Answer = tuple[Ragged, float]
"""float32 numbers of each row of the shard, in the shard's order, and the seconds it took."""


@dataclass(frozen=True)
class Pending:
    """Answers that are being computed."""

    refs: Sequence["ray.ObjectRef[Answer]"]
    names: tuple[str, ...]
    shards: Sequence[Shard]
    deadline_s: float
    what: str
    """The stage, for messages."""
    again: "Callable[[RoleFailed], Pending] | None" = None
    """Asks once more after an actor has failed, or raises why not."""
    copies: int = 1
    """Neighbours who each give the answer to one shard."""

    def result(self) -> Answer:
        """Numbers in row order, and the seconds of the slowest actor."""
        try:
            answers = deadline_get(self.refs, self.deadline_s, self.what, self.names)
        except RoleFailed as error:
            if self.again is None:
                raise
            return self.again(error).result()
        numbers = gather([part for part, _ in answers[:: self.copies]], [shard.rows for shard in self.shards])
        return numbers, max(seconds for _, seconds in answers)


def divide(rollouts: Rollouts, actors: int, budget: PassBudget, *, with_facts: bool = False) -> list[Shard]:
    """The rows for each of `actors`, about as many tokens for each, laid out in passes."""
    lengths = rollouts.lengths
    if with_facts:
        lengths = [tokens + facts for tokens, facts in zip(lengths, rollouts.facts, strict=True)]
    return one_pass_plan(lengths, rollouts.kinds, actors, budget, rollouts.shared(with_facts=with_facts))
