"""Data that passes between the roles of a step: prompts, and the responses to them.

The driver holds token-level tables. Media and features stay in the object store and go from actor to actor by
reference.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray

from mmrlhf_ray.data.batches.batching import SharedPrompts, media_kinds
from mmrlhf_ray.data.batches.ragged import row_lengths


@dataclass(frozen=True)
class TakeStats:
    """The cost of serving one batch of prompts."""

    seconds: float
    media_bytes: int
    """Raw media and features that go through the object store."""
    media_bytes_unique: int
    """The same with each clip counted once."""
    processor_calls: int

    @classmethod
    def sum(cls, parts: Iterable["TakeStats"]) -> "TakeStats":
        """Of several batches together."""
        total = cls(0.0, 0, 0, 0)
        for part in parts:
            total = cls(*(getattr(total, f.name) + getattr(part, f.name) for f in fields(cls)))
        return total


@dataclass(frozen=True)
class Prompts:
    """Prompts in the order drawn; one row is one group."""

    table: pa.Table
    """ENCODED_PROMPT."""
    media: "ray.ObjectRef[pa.Table]"
    features: "ray.ObjectRef[pa.Table]"
    stats: TakeStats
    records: tuple["ray.ObjectRef[pa.Table]", ...] = ()
    """PROMPT of these prompts, for those who score by text. Like media and features, it may hold more than these."""

    def slice(self, first: int, count: int) -> "Prompts":
        """`count` prompts from the `first` on; what they cost is counted with the whole."""
        return replace(self, table=self.table.slice(first, count), stats=TakeStats.sum([]))


@dataclass(frozen=True)
class Rollouts:
    """Responses, a group's one after the other."""

    table: pa.Table
    """ROLLOUT."""
    ref: "ray.ObjectRef[pa.Table]"
    """The table in the object store."""
    features: "ray.ObjectRef[pa.Table]"
    seconds: float
    """Of the slowest generator."""
    prompts: tuple["ray.ObjectRef[pa.Table]", ...] = ()
    """As `Prompts.records`."""

    @cached_property
    def lengths(self) -> list[int]:
        """Tokens of each row without facts: prompt (media included) and response."""
        lengths: list[int] = (self._prompt_lengths + row_lengths(self.table, "response_token_ids")).tolist()
        return lengths

    @cached_property
    def _prompt_lengths(self) -> np.ndarray:
        return row_lengths(self.table, "prompt_token_ids")

    @cached_property
    def kinds(self) -> list[frozenset[str]]:
        """Kinds of media that each row shows."""
        modalities = self.table.column("modality").to_pylist()
        known = {modality: media_kinds(modality) for modality in set(modalities)}
        return [known[modality] for modality in modalities]

    @cached_property
    def facts(self) -> list[int]:
        """Tokens of each row's facts, which reward models read beyond prompt and response."""
        lengths: list[int] = row_lengths(self.table, "facts_token_ids").tolist()
        return lengths

    def shared(self, *, with_facts: bool = False) -> SharedPrompts:
        """The prompts that the rows have in common, facts counted where they are read."""
        facts = np.array(self.facts, np.int64) if with_facts else 0
        return SharedPrompts(self.table.column("group_id").to_pylist(), (self._prompt_lengths + facts).tolist())

    def select(self, rows: Sequence[int]) -> "Rollouts":
        """These rows only, in this order."""
        return rollouts_of(self.table.take(pa.array(rows, pa.int64())), self.features, self.seconds, self.prompts)


def rollouts_of(
    table: pa.Table,
    features: "ray.ObjectRef[pa.Table]",
    seconds: float = 0.0,
    prompts: tuple["ray.ObjectRef[pa.Table]", ...] = (),
) -> Rollouts:
    """A ROLLOUT table, put into the object store."""
    return Rollouts(table, ray.put(table), features, seconds, prompts)


def own_media(prompts: pa.Table, media: pa.Table) -> pa.Table:
    """The MEDIA that these ENCODED_PROMPT rows show."""
    shown = pc.unique(pc.list_flatten(prompts.column("media_ids")))
    return media.filter(pc.is_in(media.column("media_id"), shown))


def concat_prompts(parts: Sequence[Prompts]) -> Prompts:
    """Prompts of several batches as one; media and features are joined where they lie, not in the driver."""
    if len(parts) == 1:
        return parts[0]
    return Prompts(
        pa.concat_tables([part.table for part in parts]).combine_chunks(),
        _joined([part.media for part in parts]),
        _joined([part.features for part in parts]),
        TakeStats.sum(part.stats for part in parts),
        tuple(dict.fromkeys(chain.from_iterable(part.records for part in parts))),
    )


def concat_rollouts(parts: Sequence[Rollouts]) -> Rollouts:
    """Responses of several batches as one; features are joined where they lie."""
    if len(parts) == 1:
        return parts[0]
    table = pa.concat_tables([part.table for part in parts]).combine_chunks()
    records = tuple(dict.fromkeys(chain.from_iterable(part.prompts for part in parts)))
    return rollouts_of(table, _joined([part.features for part in parts]), sum(p.seconds for p in parts), records)


def _joined(tables: Sequence["ray.ObjectRef[pa.Table]"]) -> "ray.ObjectRef[pa.Table]":
    own = list(dict.fromkeys(tables))
    return own[0] if len(own) == 1 else _join.remote(*own)


@ray.remote(num_cpus=0)
def _join(*tables: pa.Table) -> pa.Table:
    """MEDIA or FEATURES of several batches; a clip that two of them show comes twice, which readers do not mind."""
    return pa.concat_tables(tables)
