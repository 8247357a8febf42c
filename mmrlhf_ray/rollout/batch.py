"""Data that passes between the roles of a step: prompts, and the responses to them.

The driver holds token-level tables. Media and features stay in the object store, an object for each clip, and go from
actor to actor by reference: to those that need that clip.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray

from mmrlhf_ray.data.batches.batching import SharedPrompts, media_kinds
from mmrlhf_ray.data.batches.ragged import Ragged, row_lengths
from mmrlhf_ray.rollout.episode import kinds_of

Clips = Mapping[str, "ray.ObjectRef[pa.Table]"]
"""media_id → MEDIA or FEATURES with that clip; what the episodes of a prompt show is one table."""


@dataclass(frozen=True)
class TakeStats:
    """The cost of serving one batch of prompts."""

    seconds: float
    media_bytes: int
    """Raw media and features that go through the object store, each clip once."""
    processor_calls: int

    @classmethod
    def sum(cls, parts: Iterable["TakeStats"]) -> "TakeStats":
        """Of several batches together."""
        total = cls(0.0, 0, 0)
        for part in parts:
            total = cls(*(getattr(total, f.name) + getattr(part, f.name) for f in fields(cls)))
        return total


@dataclass(frozen=True)
class Prompts:
    """Prompts in the order drawn; one row is one group."""

    table: pa.Table
    """ENCODED_PROMPT."""
    media: Clips
    features: Clips
    stats: TakeStats
    records: tuple["ray.ObjectRef[pa.Table]", ...] = ()
    """PROMPT of these prompts, for those who score by text. It may hold more than these."""

    def slice(self, first: int, count: int) -> "Prompts":
        """`count` prompts from the `first` on, with their clips; what they cost is counted with the whole."""
        return self._part(self.table.slice(first, count))

    def select(self, rows: Sequence[int]) -> "Prompts":
        """These prompts only, in this order; as slice()."""
        return self._part(self.table.take(pa.array(rows, pa.int64())))

    def _part(self, table: pa.Table) -> "Prompts":
        media, features = ({name: clips[name] for name in shown(table)} for clips in (self.media, self.features))
        return replace(self, table=table, media=media, features=features, stats=TakeStats.sum([]))


@dataclass(frozen=True)
class Rollouts:
    """Responses, a group's one after the other."""

    table: pa.Table
    """ROLLOUT."""
    ref: "ray.ObjectRef[pa.Table]"
    """The table in the object store."""
    features: Clips
    """Of all clips that the rows show, perhaps of more."""
    seconds: float
    """Of the slowest generator."""
    prompts: tuple["ray.ObjectRef[pa.Table]", ...] = ()
    """As `Prompts.records`."""
    media: Clips = field(default_factory=dict)
    """As `features`."""

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
        return [known[modality] | self._shown_later.get(row, set()) for row, modality in enumerate(modalities)]

    @cached_property
    def _shown_later(self) -> dict[int, frozenset[str]]:
        """Row → kinds of media in its response, of those that have any."""
        segments = self.table.column("segments")
        if not len(pc.list_flatten(segments)):
            return {}
        kinds = {row: frozenset(kinds_of(own)) for row, own in enumerate(segments.to_pylist())}
        return {row: own for row, own in kinds.items() if own}

    @cached_property
    def facts(self) -> list[int]:
        """Tokens of each row's facts, which reward models read beyond prompt and response."""
        lengths: list[int] = row_lengths(self.table, "facts_token_ids").tolist()
        return lengths

    def shared(self, *, with_facts: bool = False) -> SharedPrompts:
        """The prompts that the rows have in common, facts counted where they are read. A row with media in its response
        shares nothing (data/batches/lines.py)."""
        facts = np.array(self.facts, np.int64) if with_facts else 0
        groups = self.table.column("group_id").to_pylist()
        for row in self._shown_later:
            groups[row] = -1 - row  # a name that no group has
        return SharedPrompts(groups, (self._prompt_lengths + facts).tolist())

    def features_of(self, rows: Sequence[int]) -> list["ray.ObjectRef[pa.Table]"]:
        """Of the clips that these rows show, each once."""
        names = shown(self.table.take(pa.array(rows, pa.int64())))
        return list(dict.fromkeys(self.features[name] for name in names))

    def select(self, rows: Sequence[int]) -> "Rollouts":
        """These rows only, in this order."""
        table = self.table.take(pa.array(rows, pa.int64()))
        return rollouts_of(table, self.features, self.seconds, self.prompts, self.media)


def rollouts_of(
    table: pa.Table,
    features: Clips,
    seconds: float = 0.0,
    prompts: tuple["ray.ObjectRef[pa.Table]", ...] = (),
    media: Clips | None = None,
) -> Rollouts:
    """A ROLLOUT table, put into the object store."""
    return Rollouts(table, ray.put(table), features, seconds, prompts, media or {})


def response_kl(table: pa.Table, ref_logprobs: Ragged) -> np.ndarray:
    """Sum of k1 to the reference over what was sampled of each row, nats, float64 [rows]. `table`: ROLLOUT."""
    sampled, mask = (Ragged.of_column(table.column(name)) for name in ("rollout_logprobs", "response_mask"))
    kl: np.ndarray = sampled.where(mask).sums() - ref_logprobs.where(mask).sums()
    return kl


def shown(table: pa.Table) -> list[str]:
    """The clips that these rows show, in the order in which each comes first. `table`: ENCODED_PROMPT or ROLLOUT."""
    names: list[str] = pc.unique(pc.list_flatten(table.column("media_ids"))).to_pylist()
    return names


def concat_prompts(parts: Sequence[Prompts]) -> Prompts:
    """Prompts of several batches as one."""
    if len(parts) == 1:
        return parts[0]
    return Prompts(
        pa.concat_tables([part.table for part in parts]).combine_chunks(),
        _all_clips([part.media for part in parts]),
        _all_clips([part.features for part in parts]),
        TakeStats.sum(part.stats for part in parts),
        tuple(dict.fromkeys(chain.from_iterable(part.records for part in parts))),
    )


def concat_rollouts(parts: Sequence[Rollouts]) -> Rollouts:
    """Responses of several batches as one."""
    if len(parts) == 1:
        return parts[0]
    table = pa.concat_tables([part.table for part in parts]).combine_chunks()
    records = tuple(dict.fromkeys(chain.from_iterable(part.prompts for part in parts)))
    media, features = (_all_clips(clips) for clips in zip(*((p.media, p.features) for p in parts), strict=True))
    return rollouts_of(table, features, sum(p.seconds for p in parts), records, media)


def _all_clips(parts: Sequence[Clips]) -> Clips:
    return {name: clip for part in parts for name, clip in part.items()}
