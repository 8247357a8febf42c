"""Learner groups: DeepSpeed trains the policy in one and the critic in another; a rank is an actor."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import ray
from ray.actor import ActorProxy
from torch import Tensor

from mmrlhf_ray.algorithms.statistics import merge_stats
from mmrlhf_ray.config.base import ModelConfig
from mmrlhf_ray.config.learner import LearnerConfig
from mmrlhf_ray.config.weights import WeightTransport
from mmrlhf_ray.data.batches.batching import PassBudget, Shard
from mmrlhf_ray.data.batches.collate import rollout_rows
from mmrlhf_ray.data.batches.ragged import Ragged, gather
from mmrlhf_ray.data.encoding.features import read_features
from mmrlhf_ray.rollout.batch import Rollouts
from mmrlhf_ray.runtime.actors import WATCH_LANE, ActorGroup
from mmrlhf_ray.runtime.devices import Held, Phase, held
from mmrlhf_ray.schema import EXPERIENCE, ROLLOUT, check
from mmrlhf_ray.training.objectives import Objective
from mmrlhf_ray.training.passes import train_step
from mmrlhf_ray.training.profiling import profiled
from mmrlhf_ray.weights.layout import InFlight, TensorLayout
from mmrlhf_ray.weights.push import ObjectStore, Sent, check_pushed, send
from mmrlhf_ray.workers.roles.answers import Answer, Pending, divide
from mmrlhf_ray.workers.roles.generator import Generator, Generators
from mmrlhf_ray.workers.roles.ranks import Meeting, start_joining, wait_joined
from mmrlhf_ray.workers.roles.receivers import GeneratorReceivers
from mmrlhf_ray.workers.roles.reference import per_token

if TYPE_CHECKING:
    from mmrlhf_ray.training.build import Trained
    from mmrlhf_ray.weights.direct import DirectPush


@dataclass(frozen=True)
class LearnerSpec:
    """The settings of one rank."""

    model: ModelConfig
    learner: LearnerConfig
    optimizer_steps: int
    rank: int
    world_size: int
    device: str
    seed: int = 0
    """Of a new adapter's weights."""
    allowed: tuple[str, ...] = ()
    """`sampling.allow_tokens`."""
    transport: WeightTransport = "object_store"
    """Of pushes."""


@dataclass(frozen=True)
class Updated:
    """An update's outcome."""

    stats: dict[str, float]
    seconds: float
    old_logprobs: Ragged | None
    """Of the shard's rows, where the update gave them."""


class Learner:
    """Consumes ROLLOUT and EXPERIENCE tables with the FEATURES of their clips. Every method but rendezvous() is a
    collective: it must be called on all ranks of the group.
    """

    def __init__(self, spec: LearnerSpec, objective: Objective):
        self._spec = spec
        self._objective = objective
        self._meeting = Meeting(spec.rank, spec.world_size, spec.device)
        self._trained: Trained
        self._joined = self._away = False
        self._direct: DirectPush | None = None

    @ray.method
    def rendezvous(self) -> tuple[str, int]:
        """As Meeting.hold_port()."""
        return self._meeting.hold_port()

    @ray.method
    def join(self, address: str, port: int) -> None:
        """Join the group and load the model."""
        from mmrlhf_ray.training.build import build_trained  # DeepSpeed, which no driver needs

        spec = self._spec
        self._meeting.enter(address, port)
        self._trained = build_trained(
            self._objective,
            spec.model,
            spec.learner,
            optimizer_steps=spec.optimizer_steps,
            seed=spec.seed,
            device=self._meeting.device,
            allowed=spec.allowed,
        )
        self._joined = True

    @ray.method(concurrency_group=WATCH_LANE)
    def joined(self) -> bool:
        """Whether it has joined its group since it was started; answered whatever else it is at work on."""
        return self._joined

    @ray.method
    def infer(self, rollouts: pa.Table, shard: Shard, *features: pa.Table) -> Answer:
        """`old_logprobs` (policy) or `values` (critic) of the shard's rows under the current weights."""
        return self._infer(rollouts, features, shard)

    def _infer(self, rollouts: pa.Table, features: Sequence[pa.Table], shard: Shard) -> Answer:
        start = time.monotonic()
        table = check(rollouts, ROLLOUT, "Learner.infer").take(list(shard.rows))
        answers = per_token(self._trained.passes, table, features, shard, self._objective.reader(self._trained.encoder))
        return answers, time.monotonic() - start

    @ray.method
    def reference_logprobs(self, rollouts: pa.Table, shard: Shard, *features: pa.Table) -> Answer:
        """`ref_logprobs` of the shard's rows: the policy without its adapter is what it was at the start.

        Raises ValueError where `learner.keeps_start` is false.
        """
        if not self._spec.learner.keeps_start:
            raise ValueError("more than an adapter is trained: without it the policy is not what it was at the start")
        with self._trained.engine.adapter_off():
            return self._infer(rollouts, features, shard)

    @ray.method
    def update(
        self,
        experience: pa.Table,
        shard: Shard,
        denominators: Sequence[float],
        kl_coef: float,
        own_old_logprobs: bool,
        trace: Path | None,
        *features: pa.Table,
    ) -> Updated:
        """The shard's optimizer steps. `denominators`: of each step's loss, over all ranks. `own_old_logprobs`: there
        is one step, and the policy's old log-probabilities are those of its passes. `trace`: as of profiled().

        Returns sums over tokens and ranks (`_max`: maxima) with `grad_norm` and learning rates.
        """
        start = time.monotonic()
        table = check(experience, EXPERIENCE, "Learner.update").take(list(shard.rows))
        rows, arrays = rollout_rows(table, with_facts=False), read_features(*features)
        found: dict[int, np.ndarray] = {}

        def noted(numbers: Sequence[int], logprobs: Tensor) -> None:
            parts = logprobs.float().cpu().split([len(rows[i].response) for i in numbers])
            found.update(zip(numbers, (part.numpy() for part in parts), strict=True))

        self._trained.engine.train()
        stats, norms = [], []
        for number, (step, denominator) in enumerate(zip(shard.steps, denominators, strict=True)):
            encoder, note = self._trained.encoder, noted if own_old_logprobs else None
            loss = self._objective.loss(encoder, table, denominator, kl_coef, note)
            read, beside = self._objective.loss_reader(encoder), self._objective.beside(table)
            with profiled(None if number else trace):
                stats.append(
                    train_step(
                        self._trained.engine, self._trained.passes, rows, arrays, step, loss, read=read, beside=beside
                    )
                )
            norms.append(self._trained.engine.grad_norm)
        self._trained.engine.train(False)
        merged = {k: float(v) for k, v in self._trained.engine.merge_over_ranks(merge_stats(stats)).items()}
        merged |= {"grad_norm": float(np.mean(norms))} | self._trained.engine.learning_rates
        old = Ragged.of_rows([found[row] for row in range(len(rows))]) if own_old_logprobs else None
        return Updated(merged, time.monotonic() - start, old)

    @ray.method
    def push_weights(self, generators: Sequence[ActorProxy[Generator]], bucket_bytes: int, deadline_s: float) -> Sent:
        """Send all weights, or `learner.sent_adapter` alone, to all generators in buckets of `bucket_bytes`."""
        if self._spec.transport != "object_store":
            receivers = GeneratorReceivers(generators, deadline_s)
            return self._pushes_directly(bucket_bytes).push(receivers, deadline_s)

        def receive(layout: list[TensorLayout], payload: "ray.ObjectRef[np.ndarray]") -> list["ray.ObjectRef[None]"]:
            return [generator.receive_bucket.remote(layout, payload) for generator in generators]

        groups = self._trained.engine.buckets(bucket_bytes, trained_only=self._spec.learner.sent_adapter is not None)
        return send(groups, self._trained.encoder.adapter, ObjectStore(receive, deadline_s))

    def _pushes_directly(self, bucket_bytes: int) -> "DirectPush":
        if self._direct is None:
            from mmrlhf_ray.weights.direct import DirectPush  # vLLM, which nothing else of a learner needs

            trained, transport = self._trained, self._spec.transport
            address = ray.util.get_node_ip_address()
            self._direct = DirectPush(
                transport, trained.engine, trained.encoder.adapter, bucket_bytes, self._spec.rank, address
            )
        return self._direct

    @ray.method
    def perturb(self, prefix: str, scale: float, seed: int) -> int:
        """Add noise to the parameters whose name starts with `prefix`; how many there were. For checks of the push."""
        return self._trained.engine.perturb(prefix, scale, seed)

    @ray.method
    def leave(self) -> Held:
        """Weights, gradients and optimizer state wait in the host's memory; what is left on its device."""
        if not self._away:
            self._trained.engine.offload()
            self._away = True
        return held(self._trained.engine.device, 0)

    @ray.method
    def enter(self) -> Held:
        """They are on its device again; what is there."""
        if self._away:
            self._trained.engine.reload()
            self._away = False
        return held(self._trained.engine.device, self._trained.engine.state_bytes)

    @ray.method
    def export(self, directory: str) -> None:
        """As Trained.export()."""
        self._trained.export(Path(directory))

    @ray.method
    def save(self, directory: str) -> dict[str, str]:
        """Checkpoint of this group. Returns what this rank wrote, as TrainEngine.save()."""
        return self._trained.save(Path(directory))

    @ray.method
    def load(self, directory: str) -> None:
        """The inverse of save(), also of other numbers of ranks."""
        self._trained.load(Path(directory))


@dataclass(frozen=True)
class Learners:
    """The ranks of one DeepSpeed group. Every call goes to all of them."""

    group: ActorGroup[Learner]
    budget: PassBudget
    deadline_s: float
    spread: int = 1
    """Neighbouring ranks that are given the same rows, each pass of which is spread over them."""

    @property
    def shares(self) -> int:
        """Into how many the rows are divided: data-parallel ranks."""
        return len(self.group) // self.spread

    def _each(self, shards: Sequence[Shard]) -> Iterator[tuple[ActorProxy[Learner], Shard]]:
        """The ranks, each with its shard."""
        return zip(self.group.handles, (shard for shard in shards for _ in range(self.spread)), strict=True)

    def join(self, seconds: float) -> list["ray.ObjectRef[None]"]:
        """Tell all ranks where the first one is; they load the model and meet in the background: see wait_joined()."""
        return start_joining(self.group, seconds)

    def wait_joined(self, refs: Sequence["ray.ObjectRef[None]"], seconds: float) -> None:
        """Until all ranks have met. Raises what loading raised, DeadlineExceeded."""
        wait_joined(self.group, refs, seconds, "learner")

    def joined(self, seconds: float) -> bool:
        """Whether all ranks have joined and none was started again since. Raises DeadlineExceeded, RoleFailed."""
        asked = [handle.joined.remote() for handle in self.group.handles]
        found = self.group.wait(asked, seconds, "looking for learners that are gone")
        return all(found)

    def leave(self) -> list[Held]:
        """As Taking.leave()."""
        refs = [handle.leave.remote() for handle in self.group.handles]
        return self.group.wait(refs, self.deadline_s, "leaving the devices")

    def enter(self, phase: Phase) -> list[Held]:
        """As Taking.enter()."""
        refs = [handle.enter.remote() for handle in self.group.handles]
        return self.group.wait(refs, self.deadline_s, "coming back to the devices")

    def infer(self, rollouts: Rollouts) -> Pending:
        """`old_logprobs` of the policy, `values` of the critic; nothing blocks."""
        shards = divide(rollouts, self.shares, self.budget)
        refs = [
            handle.infer.remote(rollouts.ref, shard, *rollouts.features_of(shard.rows))
            for handle, shard in self._each(shards)
        ]
        return Pending(refs, self.group.names, shards, self.deadline_s, "learner inference", copies=self.spread)

    def reference_logprobs(self, rollouts: Rollouts) -> Pending:
        """`ref_logprobs` by the policy without its adapter; nothing blocks."""
        shards = divide(rollouts, self.shares, self.budget)
        refs = [
            handle.reference_logprobs.remote(rollouts.ref, shard, *rollouts.features_of(shard.rows))
            for handle, shard in self._each(shards)
        ]
        return Pending(
            refs, self.group.names, shards, self.deadline_s, "reference log-probabilities", copies=self.spread
        )

    def update(
        self,
        experience: "ray.ObjectRef[pa.Table]",
        rollouts: Rollouts,
        shards: Sequence[Shard],
        denominators: Sequence[float],
        kl_coef: float,
        own_old_logprobs: bool = False,
        traces: Path | None = None,
    ) -> list["ray.ObjectRef[Updated]"]:
        """Start the optimizer steps on all ranks, as Learner.update(); nothing blocks. `rollouts`: that the experience
        was made of, row by row. `traces`: the directory in which each rank writes what ran when in the first of the
        optimizer steps."""
        files = [traces / f"{name}.json.gz" if traces else None for name in self.group.names]
        return [
            handle.update.remote(
                experience,
                shard,
                list(denominators),
                kl_coef,
                own_old_logprobs,
                file,
                *rollouts.features_of(shard.rows),
            )
            for (handle, shard), file in zip(self._each(shards), files, strict=True)
        ]

    def finish_update(self, refs: Sequence["ray.ObjectRef[Updated]"], shards: Sequence[Shard]) -> Updated:
        """Statistics of an update (the same on every rank), the seconds of the slowest rank, log-probabilities by row.

        shards: those that update() was given.
        """
        answers = self.group.wait(refs, self.deadline_s, "learner update")
        parts = [answer.old_logprobs for answer in answers[:: self.spread] if answer.old_logprobs is not None]
        old = gather(parts, [shard.rows for shard in shards]) if parts else None
        return Updated(answers[0].stats, max(answer.seconds for answer in answers), old)

    def push(
        self, generators: Generators, policy_version: int, bucket_bytes: int, in_flight: InFlight = "finish"
    ) -> int:
        """Push the weights to all generators and compare. Returns the bytes sent to each. in_flight: the fate of
        running responses, as in Sampler.start_weight_update().

        Raises RunError when a generator's names or checksum differ from the learner's.
        """
        generators.start_weight_update(in_flight)
        handles = generators.group.handles
        refs = [rank.push_weights.remote(handles, bucket_bytes, self.deadline_s) for rank in self.group.handles]
        sent = self.group.wait(refs, self.deadline_s, "pushing weights")[0]
        for name, pushed in zip(generators.group.names, generators.finish_weight_update(policy_version), strict=True):
            check_pushed(sent, pushed, name)
        return sent.nbytes

    def export(self, directory: Path) -> None:
        """Write the model as a Hugging Face directory."""
        refs = [handle.export.remote(str(directory.resolve())) for handle in self.group.handles]
        self.group.wait(refs, self.deadline_s, "exporting the model")

    def start_save(self, directory: Path) -> list["ray.ObjectRef[dict[str, str]]"]:
        """Have the group write a checkpoint of what it is now; nothing blocks."""
        return [handle.save.remote(str(directory.resolve())) for handle in self.group.handles]

    def finish_save(self, refs: Sequence["ray.ObjectRef[dict[str, str]]"]) -> dict[str, str]:
        """Until it is written. Returns the files of all ranks by their path in the directory → sha256."""
        of_ranks = self.group.wait(refs, self.deadline_s, "saving a checkpoint")
        return {name: digest for files in of_ranks for name, digest in files.items()}

    def load(self, directory: Path) -> None:
        """The inverse of save(), also of other numbers of ranks."""
        refs = [handle.load.remote(str(directory.resolve())) for handle in self.group.handles]
        self.group.wait(refs, self.deadline_s, "loading a checkpoint")


@dataclass(frozen=True)
class WithoutAdapter:
    """The policy as its own reference: its adapter is switched off."""

    policy: Learners

    def ask(self, rollouts: Rollouts) -> Pending:
        """`ref_logprobs` of each row; nothing blocks."""
        return self.policy.reference_logprobs(rollouts)
