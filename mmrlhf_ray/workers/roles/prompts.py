"""The prompts of a run as its driver sees them: a pool of encoders, each with its share of the rows."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import pyarrow as pa
import ray

from mmrlhf_ray.data.records.readers import Records
from mmrlhf_ray.data.records.shares import Shares
from mmrlhf_ray.rollout.batch import Prompts, concat_prompts, shown
from mmrlhf_ray.runtime.actors import ActorGroup
from mmrlhf_ray.runtime.waits import deadline_get
from mmrlhf_ray.schema import ENCODED_PROMPT, check
from mmrlhf_ray.workers.roles.encoder import Begun, PromptEncoder, Served


@dataclass(frozen=True)
class Encoders:
    """The encoders, on their way."""

    group: ActorGroup[PromptEncoder]
    deadline_s: float
    records: "ray.ObjectRef[Records]"

    def check(self, seconds: float) -> "PromptServer":
        """As PromptServer.check(); `seconds` from now."""
        return PromptServer.check(self.group, self.deadline_s, seconds, self.records)


@dataclass(frozen=True)
class PromptServer:
    """The encoders, which have checked their prompts."""

    group: ActorGroup[PromptEncoder]
    deadline_s: float
    shares: Shares
    begun: Begun | None = None

    @classmethod
    def check(
        cls,
        group: ActorGroup[PromptEncoder],
        deadline_s: float,
        seconds: float,
        records: "ray.ObjectRef[Records] | None" = None,
    ) -> "PromptServer":
        """Have each encoder check its own prompts, and all serve those that are right. `records`: those that they were
        not started with. Raises DataError as `data.on_bad_row` says, DeadlineExceeded."""
        readers, begun = len(group), None if records is None else Begun(records)
        asked = [handle.find_bad.remote(number, readers, begun) for number, handle in enumerate(group.handles)]
        bad = {number: row for own in group.wait(asked, seconds, "checking prompts") for number, row in own.items()}
        first, *others = group.handles
        (shares,) = deadline_get([first.begin.remote(bad, readers, True)], seconds, "checking prompts", group.names[:1])
        others_begin = [handle.begin.remote(bad, readers, False) for handle in others]
        deadline_get(others_begin, seconds, "checking prompts", group.names[1:])
        return cls(group, deadline_s, shares, None if records is None else Begun(records, frozenset(bad)))

    @property
    def rows(self) -> int:
        """Prompts of an epoch."""
        return self.shares.rows

    def ask(self, positions: Sequence[int]) -> "PendingPrompts":
        """The prompts at these positions; nothing blocks."""
        parts = []
        for number, indices in self.shares.split(positions).items():
            served = self.group.handles[number].take.remote([positions[index] for index in indices], self.begun)
            parts.append(_part(served, indices))
        return PendingPrompts(tuple(parts), self.group.names, self.deadline_s)

    def take(self, positions: Sequence[int]) -> Prompts:
        """The prompts at these positions."""
        return self.ask(positions).result()

    def ask_slice(self, first: int, last: int) -> "PendingPrompts":
        """Prompts first … last − 1 in file order; nothing blocks."""
        bounds = np.linspace(first, last, len(self.group) + 1).astype(int).tolist()
        parts = [
            _part(handle.slice.remote(start, end, self.begun), range(start - first, end - first))
            for handle, start, end in zip(self.group.handles, bounds, bounds[1:], strict=False)
            if end > start
        ]
        return PendingPrompts(tuple(parts), self.group.names, self.deadline_s)

    def slice(self, first: int, last: int) -> Prompts:
        """Prompts first … last − 1 in file order."""
        return self.ask_slice(first, last).result()


@dataclass(frozen=True)
class _Part:
    """One encoder's part of what was asked for."""

    served: ray.ObjectRefGenerator
    """References to what Served holds. The objects are this process's: they stay when the encoder is gone."""
    indices: Sequence[int]
    """Where its prompts stand among all."""


def _part(served: "ray.ObjectRef[Served]", indices: Sequence[int]) -> _Part:
    return _Part(cast(ray.ObjectRefGenerator, served), indices)  # which Ray's types do not say


@dataclass(frozen=True)
class PendingPrompts:
    """Prompts that are being encoded."""

    parts: tuple[_Part, ...]
    names: tuple[str, ...]
    deadline_s: float

    @property
    def count(self) -> int:
        """How many there are."""
        return sum(len(part.indices) for part in self.parts)

    @property
    def refs(self) -> list["ray.ObjectRef[None]"]:
        """What must be there for result() not to block."""
        return [part.served.completed() for part in self.parts]

    def result(self) -> Prompts:
        """The prompts, in the order asked for. Raises DataError for those that cannot be used, DeadlineExceeded."""
        deadline_get(self.refs, self.deadline_s, "encoding prompts", self.names)
        found = [self._prompts(list(part.served)) for part in self.parts]
        if len(found) == 1:
            return found[0]
        joined = concat_prompts(found)
        order = np.argsort(np.concatenate([part.indices for part in self.parts]))
        return replace(joined, table=joined.table.take(pa.array(order)))

    def _prompts(self, served: list["ray.ObjectRef[Any]"]) -> Prompts:
        """Where encoding failed, the first reference that is asked for holds the error."""
        table = deadline_get(served[0], self.deadline_s, "encoding prompts")
        records, stats, *clips = served[1:]
        names = shown(check(table, ENCODED_PROMPT, "PromptServer"))
        media, features = (dict(zip(names, clips[part::2], strict=True)) for part in (0, 1))
        return Prompts(table, media, features, deadline_get(stats, self.deadline_s, "encoding prompts"), (records,))
