"""The roles of an online run as the driver sees them. Methods take and return references; nothing here does maths."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from mmrlhf_ray.config import ModelReward
from mmrlhf_ray.data.batches.batching import PassBudget, Shard, media_kinds, one_pass_plan
from mmrlhf_ray.errors import RunError
from mmrlhf_ray.rewards.scores import ComponentScores
from mmrlhf_ray.runtime.actors import ActorGroup
from mmrlhf_ray.runtime.waits import deadline_get
from mmrlhf_ray.schema import ENCODED_PROMPT, ROLLOUT, check
from mmrlhf_ray.workers.roles.encoder import TakeStats


@dataclass(frozen=True)
class Prompts:
    """A step's prompts. Only the token-level table is in the driver; media stay in the object store."""

    table: pa.Table
    media: ray.ObjectRef
    features: ray.ObjectRef
    stats: TakeStats
    records: tuple[ray.ObjectRef, ...] = ()
    """PROMPT of these prompts, where only the encoder reads them."""


@dataclass(frozen=True)
class Rollouts:
    """A step's responses."""

    table: pa.Table
    reference: ray.ObjectRef
    features: ray.ObjectRef
    seconds: float
    prompts: tuple[ray.ObjectRef, ...] = ()
    """As `Prompts.records`."""

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row without facts: prompt (media included) and response."""
        columns = [self.table.column(c).to_pylist() for c in ("prompt_token_ids", "response_token_ids")]
        return [len(p) + len(r) for p, r in zip(*columns, strict=True)]

    @property
    def kinds(self) -> list[frozenset[str]]:
        return [media_kinds(m) for m in self.table.column("modality").to_pylist()]

    def select(self, rows: Sequence[int]) -> "Rollouts":
        """These rows only, in this order."""
        table = self.table.take(list(rows))
        return Rollouts(table, ray.put(table), self.features, self.seconds, self.prompts)


def concat_rollouts(parts: Sequence[Rollouts]) -> Rollouts:
    """Rows of several rounds as one; features are joined where they lie, not in the driver."""
    table = pa.concat_tables([part.table for part in parts]).combine_chunks()
    features = _join_features.remote(*(part.features for part in parts))
    prompts = tuple(chain.from_iterable(part.prompts for part in parts))
    return Rollouts(table, ray.put(table), features, sum(part.seconds for part in parts), prompts)


@ray.remote(num_cpus=0)
def _join_features(*tables: pa.Table) -> pa.Table:
    """FEATURES of several rounds; a clip that was shown in two of them comes twice, which readers do not mind."""
    return pa.concat_tables(tables)


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
    streaming: bool = False
    """Whether the encoder alone reads the prompts."""

    def take(self, cursor: int, n: int) -> Prompts:
        """The next `n` prompts from `cursor` on."""
        prompts = self._fetch(self.group.handles[0].take.options(num_returns=4).remote(cursor, n))
        if not self.streaming:
            return prompts
        return replace(prompts, records=(self.group.handles[0].prompts.remote(cursor, n),))

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
        slowest = max(seconds for _, seconds in answers)
        return Rollouts(table, ray.put(table), prompts.features, slowest, prompts.records)


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
class PendingScores:
    """Reward components at work."""

    models: Pending | None
    """Each row (score, uncertainty) of one model after the other."""
    model_rewards: tuple[ModelReward, ...]
    functions: ray.ObjectRef | None
    deadline_s: float

    def result(self) -> tuple[dict[str, ComponentScores], float]:
        """Component → scores of all rows, and the seconds of the slowest actor."""
        answers: dict[str, ComponentScores] = {}
        slowest = 0.0
        if self.models is not None:
            rows, slowest = self.models.result()
            for number, reward in enumerate(self.model_rewards):
                scores = [float(r[2 * number] - reward.uncertainty_coef * r[2 * number + 1]) for r in rows]
                answers[reward.name] = ComponentScores.of(scores)
        if self.functions is not None:
            computed, seconds = deadline_get(self.functions, self.deadline_s, "computing rewards", ["functions-0"])
            answers, slowest = answers | computed, max(slowest, seconds)
        return answers, slowest


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
        self,
        experience: ray.ObjectRef,
        features: ray.ObjectRef,
        shards: Sequence[Shard],
        denominators: Sequence[float],
        kl_coef: float,
    ) -> list[ray.ObjectRef]:
        """Start the optimizer steps on all ranks."""
        return [
            handle.update.remote(experience, features, shard, list(denominators), kl_coef)
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
    """All roles of an online run."""

    prompts: PromptServer
    generators: Generators
    scorers: Servers | None
    """Reward models; None where no reward is one."""
    model_rewards: tuple[ModelReward, ...]
    """What the scorers hold, in this order."""
    functions: ActorGroup | None
    """The actor of computed rewards; None where no reward is one."""
    reference: Servers
    policy: LearnerGroup
    critic: LearnerGroup | None
    weight_sync: WeightSync

    def ask_scores(self, rollouts: Rollouts) -> PendingScores:
        """Ask every reward component; nothing blocks."""
        models = functions = None
        if self.scorers is not None:
            facts = [len(f) for f in rollouts.table.column("facts_token_ids").to_pylist()]
            models = self.scorers.ask(rollouts, extra_tokens=facts)
        if self.functions is not None:
            functions = self.functions.handles[0].score.remote(rollouts.reference, *rollouts.prompts)
        return PendingScores(models, self.model_rewards, functions, self.prompts.deadline_s)

    @property
    def learners(self) -> dict[str, LearnerGroup]:
        """Role → the learner groups there are."""
        return {"policy": self.policy} | ({"critic": self.critic} if self.critic is not None else {})
