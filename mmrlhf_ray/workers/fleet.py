"""The roles of a PPO run as the driver sees them. Methods take and return references; nothing here does maths."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from mmrlhf_ray.data.batching import PassBudget, Shard, media_kinds, one_pass_plan
from mmrlhf_ray.runtime.actors import ActorGroup
from mmrlhf_ray.runtime.errors import RunError
from mmrlhf_ray.runtime.waits import deadline_get
from mmrlhf_ray.schema import ENCODED_PROMPT, ROLLOUT, check
from mmrlhf_ray.workers.encoder import TakeStats


@dataclass(frozen=True)
class Prompts:
    """A step's prompts. Only the token-level table is in the driver; media stay in the object store."""

    table: pa.Table
    media: ray.ObjectRef
    features: ray.ObjectRef
    stats: TakeStats


@dataclass(frozen=True)
class Rollouts:
    """A step's responses."""

    table: pa.Table
    reference: ray.ObjectRef
    features: ray.ObjectRef
    seconds: float

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row without facts: prompt (media included) and response."""
        columns = [self.table.column(c).to_pylist() for c in ("prompt_token_ids", "response_token_ids")]
        return [len(p) + len(r) for p, r in zip(*columns, strict=True)]

    @property
    def kinds(self) -> list[frozenset[str]]:
        return [media_kinds(m) for m in self.table.column("modality").to_pylist()]


@dataclass(frozen=True)
class Pending:
    """Answers that are being computed: one array per row."""

    refs: list[ray.ObjectRef]
    names: tuple[str, ...]
    shards: list[Shard]
    deadline_s: float
    what: str

    def result(self) -> tuple[list[np.ndarray], float]:
        """Arrays in row order, and the seconds of the slowest actor."""
        answers = deadline_get(self.refs, self.deadline_s, self.what, list(self.names))
        rows: list[np.ndarray] = [np.empty(0, np.float32)] * sum(len(s.rows) for s in self.shards)
        for shard, (arrays, _) in zip(self.shards, answers, strict=True):
            for row, array in zip(shard.rows, arrays, strict=True):
                rows[row] = array
        return rows, max(seconds for _, seconds in answers)


@dataclass(frozen=True)
class PromptServer:
    """The encoder actor."""

    group: ActorGroup
    deadline_s: float

    def take(self, cursor: int, n: int) -> Prompts:
        """The next `n` prompts from `cursor` on."""
        return self._fetch(self.group.handles[0].take.options(num_returns=4).remote(cursor, n))

    def slice(self, first: int, last: int) -> Prompts:
        """Prompts first … last − 1 in file order."""
        return self._fetch(self.group.handles[0].slice.options(num_returns=4).remote(first, last))

    def _fetch(self, refs: list[ray.ObjectRef]) -> Prompts:
        table, media, features, stats = refs
        table, stats = deadline_get([table, stats], self.deadline_s, "encoding prompts", list(self.group.names) * 2)
        return Prompts(check(table, ENCODED_PROMPT, "PromptServer"), media, features, stats)


@dataclass(frozen=True)
class Generators:
    """The vLLM actors; prompts are divided among them."""

    group: ActorGroup
    deadline_s: float

    def generate(self, prompts: Prompts, n_samples: int, seed_offset: int, *, greedy: bool = False) -> Rollouts:
        """`n_samples` responses to each prompt, in prompt order."""
        bounds = np.linspace(0, len(prompts.table), len(self.group) + 1).astype(int)
        refs = [
            handle.generate.remote(
                prompts.table.slice(first, last - first),
                prompts.media,
                n_samples,
                seed_offset=seed_offset + int(first) * n_samples,
                greedy=greedy,
            )
            for handle, first, last in zip(self.group.handles, bounds, bounds[1:], strict=False)
        ]
        answers = self.group.wait(refs, self.deadline_s, "generating responses")
        table = check(pa.concat_tables([t for t, _ in answers]), ROLLOUT, "Generators").combine_chunks()
        return Rollouts(table, ray.put(table), prompts.features, max(seconds for _, seconds in answers))


@dataclass(frozen=True)
class Servers:
    """Actors that answer one method for rows of a ROLLOUT table: scorers, reference, learners' inference."""

    group: ActorGroup
    method: str
    budget: PassBudget
    deadline_s: float

    def ask(self, rollouts: Rollouts, extra_tokens: Sequence[int] | None = None) -> Pending:
        """Divide the rows by tokens and ask; nothing blocks. `extra_tokens`: of each row, read beside the prompt."""
        lengths = [n + e for n, e in zip(rollouts.lengths, extra_tokens or [0] * len(rollouts.table), strict=True)]
        shards = one_pass_plan(lengths, rollouts.kinds, len(self.group), self.budget)
        refs = [
            getattr(handle, self.method).remote(rollouts.reference, rollouts.features, shard)
            for handle, shard in zip(self.group.handles, shards, strict=True)
        ]
        return Pending(refs, self.group.names, shards, self.deadline_s, self.method)


@dataclass(frozen=True)
class LearnerGroup:
    """The ranks of one DeepSpeed group."""

    group: ActorGroup
    budget: PassBudget
    deadline_s: float

    def infer(self, rollouts: Rollouts) -> Pending:
        """`old_logprobs` of the policy, `values` of the critic."""
        return Servers(self.group, "infer", self.budget, self.deadline_s).ask(rollouts)

    def update(
        self, experience: ray.ObjectRef, features: ray.ObjectRef, shards: Sequence[Shard], denominators: Sequence[int]
    ) -> list[ray.ObjectRef]:
        """Start the optimizer steps on all ranks."""
        return [
            handle.update.remote(experience, features, shard, list(denominators))
            for handle, shard in zip(self.group.handles, shards, strict=True)
        ]

    def finish_update(self, refs: Sequence[ray.ObjectRef]) -> tuple[dict[str, float], float]:
        """Statistics of an update (the same on every rank) and the seconds of the slowest rank."""
        answers = self.group.wait(refs, self.deadline_s, "learner update")
        return answers[0][0], max(seconds for _, seconds in answers)

    def collective(self, method: str, *arguments: Any) -> list[Any]:
        """A method on all ranks, waited for."""
        return self.group.wait(self.group.call(method, *arguments), self.deadline_s, method)


@dataclass(frozen=True)
class WeightSync:
    """Policy weights to all generators."""

    policy: LearnerGroup
    generators: Generators
    bucket_bytes: int

    def push(self, policy_version: int) -> int:
        """Push and compare. Returns the bytes sent to each generator.

        Raises RunError when a generator's names or checksum differ from the learner's.
        """
        group, deadline = self.generators.group, self.generators.deadline_s
        group.wait(group.call("start_weight_update"), deadline, "start_weight_update")
        sent = self.policy.collective("push_weights", group.handles, self.bucket_bytes, deadline)[0]
        pushed = group.wait(group.call("finish_weight_update", policy_version), deadline, "finish_weight_update")
        for name, got in zip(group.names, pushed, strict=True):
            if got.names != sent.names:
                raise RunError(f"weight push: {name} differs in names: {sorted(got.names ^ sent.names)[:5]} …")
            if got.checksum != sent.checksum:
                raise RunError(f"weight push: {name} holds checksum {got.checksum}, the learner sent {sent.checksum}")
        return sent.nbytes


@dataclass(frozen=True)
class Fleet:
    """All roles of a PPO run."""

    prompts: PromptServer
    generators: Generators
    scorers: Servers
    reference: Servers
    policy: LearnerGroup
    critic: LearnerGroup
    weight_sync: WeightSync
