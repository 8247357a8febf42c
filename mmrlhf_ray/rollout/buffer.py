"""Whole groups between the generators and the learners. A group is one prompt drawn once, with its samples."""

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

from mmrlhf_ray.rollout.ledger import Ledger

T = TypeVar("T")


class Leave(StrEnum):
    """Why a group left the buffer."""

    TRAINED = "trained"
    FILTERED = "filtered"
    """Its responses teach nothing: they all score alike."""
    MISSING_SCORE = "missing_score"
    """Too few of its responses have a score."""
    STALE = "stale"
    """The weights moved on before it could be trained on."""
    FAILED = "failed"
    """No answer came."""
    SKIPPED = "skipped"
    """Its prompt was not sampled: its pass rate says that there is less to learn from it than from others."""

    @property
    def drawn_again(self) -> bool:
        """Whether the same position is asked for again; else another one takes its place."""
        return self in (Leave.STALE, Leave.FAILED)


@dataclass(frozen=True)
class Ready(Generic[T]):
    """A group that can be trained on."""

    position: int
    version: int
    """The oldest weights that sampled any of it."""
    group: T


class Buffer(Generic[T]):
    """Counts groups from the moment that they are asked for until they leave, each for one reason.

    `take` gives exactly `prompts_per_step` groups, none older than `max_staleness` versions, and waits rather than
    letting a slow group grow stale: leaving out what takes long would favour short responses.
    """

    def __init__(self, prompts_per_step: int, max_staleness: int, ledger: Ledger, version: int = 0):
        self._size, self._max_staleness, self._ledger = prompts_per_step, max_staleness, ledger
        self._running: dict[int, int] = {}
        """Position → the version at which it was asked for."""
        self._ready: dict[int, Ready[T]] = {}
        self.version = version
        """Of the weights, that is, batches trained."""
        self.left: Counter[Leave] = Counter()
        """Groups that left since a caller last cleared this."""

    @property
    def running(self) -> int:
        """Groups that were asked for and are not ready."""
        return len(self._running)

    @property
    def ready(self) -> int:
        """Groups that can be trained on."""
        return len(self._ready)

    def start(self, position: int) -> None:
        """The group at a position drawn from the ledger is asked for."""
        if position in self._running or position in self._ready:
            raise ValueError(f"position {position} is in the buffer already")
        self._running[position] = self.version

    def accept(self, position: int, version: int, group: T) -> None:
        """The group is ready, unless it is too old already. `version`: the oldest weights that sampled any of it."""
        del self._running[position]
        if version < self._oldest:
            self._leave(position, Leave.STALE)
        else:
            self._ready[position] = Ready(position, version, group)

    def drop(self, position: int, why: Leave) -> None:
        """A running group will not be trained on."""
        del self._running[position]
        self._leave(position, why)

    def advance(self) -> None:
        """The weights are one version on: ready groups that are too old for them leave."""
        self.version += 1
        for ready in [r for r in self._ready.values() if r.version < self._oldest]:
            del self._ready[ready.position]
            self._leave(ready.position, Leave.STALE)

    def can_take(self) -> bool:
        """Whether there is a batch that leaves none behind which would be too old for the batches after it.

        j batches later all that was sampled by version − max_staleness + j must be gone; what j batches cannot hold of
        it must be in this one. What is too old already will leave, and is not waited for.
        """
        if len(self._ready) < self._size:
            return False
        there, coming = Counter(r.version for r in self._ready.values()), Counter(self._running.values())
        for later in range(self._max_staleness + 1):
            by = range(self._oldest, self._oldest + later + 1)
            due = sum(there[v] for v in by)
            if due < min(due + sum(coming[v] for v in by) - later * self._size, self._size):
                return False
        return True

    def take(self) -> list[Ready[T]]:
        """The batch that is trained on at the present version: the oldest groups, in the order of their positions.

        Raises ValueError where can_take() is false or a group is too old.
        """
        if not self.can_take():
            raise ValueError(f"there is no batch for version {self.version}: {self.ready} groups are ready")
        oldest = sorted(self._ready.values(), key=lambda ready: (ready.version, ready.position))[: self._size]
        batch = sorted(oldest, key=lambda ready: ready.position)
        for ready in batch:
            if not self._oldest <= ready.version <= self.version:
                raise ValueError(
                    f"the group at position {ready.position} was sampled at version {ready.version}, which is not "
                    f"within max_staleness={self._max_staleness} of version {self.version}"
                )
        for ready in batch:
            del self._ready[ready.position]
            self._leave(ready.position, Leave.TRAINED)
        return batch

    @property
    def _oldest(self) -> int:
        """The oldest version that may be trained on."""
        return self.version - self._max_staleness

    def _leave(self, position: int, why: Leave) -> None:
        self.left[why] += 1
        if why.drawn_again:
            self._ledger.release(position)
        else:
            self._ledger.settle(position)
