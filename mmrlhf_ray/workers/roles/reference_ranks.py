"""The reference as the ranks of one group that hold its weights together, for a model that is large."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import pyarrow as pa
import ray

from mmrlhf_ray.config.base import ModelConfig
from mmrlhf_ray.data.batches.batching import PassBudget, Shard
from mmrlhf_ray.errors import RoleFailed
from mmrlhf_ray.rollout.batch import Rollouts
from mmrlhf_ray.runtime.actors import WATCH_LANE, ActorGroup
from mmrlhf_ray.runtime.devices import Held, Phase, held
from mmrlhf_ray.schema import ROLLOUT, check
from mmrlhf_ray.workers.roles.answers import Answer, Pending, divide
from mmrlhf_ray.workers.roles.ranks import Meeting, start_joining, wait_joined
from mmrlhf_ray.workers.roles.reference import per_token
from mmrlhf_ray.workers.watch import Watch

logger = logging.getLogger(__name__)
_ATTEMPTS = 3
"""At one question that a rank died on."""


class ReferenceRank:
    """One rank of the policy as it was at the start. Consumes ROLLOUT rows with the FEATURES of their clips."""

    def __init__(self, meeting: Meeting, model: ModelConfig, temperature: float, allowed: Sequence[str] = ()):
        self._meeting, self._settings = meeting, (model, temperature, meeting.device, allowed)
        self._joined = False

    @ray.method
    def rendezvous(self) -> tuple[str, int]:
        """As Meeting.hold_port()."""
        return self._meeting.hold_port()

    @ray.method
    def join(self, address: str, port: int) -> None:
        """Join the group and load the model. A collective."""
        from mmrlhf_ray.training.sharded import sharded_policy  # DeepSpeed, which no driver needs

        self._meeting.enter(address, port)
        self._model, self._passes, self._read = sharded_policy(*self._settings)
        self._joined = True

    @ray.method(concurrency_group=WATCH_LANE)
    def joined(self) -> bool:
        """Whether it has joined its group since it was started; answered whatever else it is at work on."""
        return self._joined

    @ray.method
    def held(self) -> Held:
        """Its share, which is on its device all the time."""
        return held(self._meeting.device, self._model.held_bytes)

    @ray.method
    def logprobs(self, rollouts: pa.Table, shard: Shard, *features: pa.Table) -> Answer:
        """As Reference.logprobs(). A collective. Raises RoleFailed where it was started again and has not joined."""
        if not self._joined:
            raise RoleFailed("started again, and not in its group so far")
        start = time.monotonic()
        table = check(rollouts, ROLLOUT, "ReferenceRank.logprobs").take(list(shard.rows))
        return per_token(self._passes, table, features, shard, self._read), time.monotonic() - start


@dataclass
class _Life:
    """How often the group was started again."""

    times: int = 0


@dataclass(frozen=True)
class ReferenceRanks:
    """The ranks. All are asked at once, in the same order, and run equally many passes.

    Like a server's, their answers hang on nothing but the question; but one rank cannot be replaced among the others.
    Where one dies all start again, and what they had not answered is asked again. No learner loses a step by it.
    """

    group: ActorGroup[ReferenceRank]
    budget: PassBudget
    deadline_s: float
    watch: Watch
    start_s: float
    """Seconds within which ranks that are started again must have joined."""
    _life: _Life = field(default_factory=_Life)

    def join(self, seconds: float) -> list["ray.ObjectRef[None]"]:
        """As start_joining()."""
        return start_joining(self.group, seconds)

    def wait_joined(self, refs: Sequence["ray.ObjectRef[None]"], seconds: float) -> None:
        """As of ranks."""
        wait_joined(self.group, refs, seconds, "reference")

    def ask(self, rollouts: Rollouts) -> Pending:
        """`ref_logprobs` of each row; nothing blocks. Its result() starts the ranks again where one has failed."""
        return self._ask(rollouts, _ATTEMPTS)

    def leave(self) -> list[Held]:
        """As Taking.leave(); a rank's share is so little that it stays."""
        refs = [handle.held.remote() for handle in self.group.handles]
        return self.group.wait(refs, self.deadline_s, "counting what is on the devices")

    def enter(self, phase: Phase) -> list[Held]:
        """As Taking.enter()."""
        return self.leave()

    def _ask(self, rollouts: Rollouts, attempts: int) -> Pending:
        shards = divide(rollouts, len(self.group), self.budget)
        refs = [
            handle.logprobs.remote(rollouts.ref, shard, *rollouts.features_of(shard.rows))
            for handle, shard in zip(self.group.handles, shards, strict=True)
        ]
        again = partial(self._ask_again, rollouts, attempts - 1, self._life.times)
        return Pending(refs, self.group.names, shards, self.deadline_s, "reference log-probabilities", again)

    def _ask_again(self, rollouts: Rollouts, attempts: int, asked_in: int, error: RoleFailed) -> Pending:
        """`asked_in`: how often the ranks had been started again when they were asked."""
        if not attempts or not self.watch.starts_again:
            raise error
        if self._life.times == asked_in:  # else it is another question to the ranks that died
            logger.warning("%s; all ranks of the reference start again", error)
            self._start_again()
        return self._ask(rollouts, attempts)

    def _start_again(self) -> None:
        names = self.group.names
        self.watch.wait(names, self.start_s)
        self.watch.start_again(names, self.start_s)
        self.wait_joined(self.join(self.start_s), self.start_s)
        self._life.times += 1
