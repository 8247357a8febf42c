"""Which rows go through the model together. Every rank gets the same number of passes over the same media towers."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from heapq import heapreplace
from itertools import zip_longest

from mmrlhf_ray.config.base import EngineConfig


@dataclass(frozen=True)
class PassBudget:
    """How large a pass may be."""

    tokens: int
    """Positions of one rank, padding and media tokens counted."""
    max_padding_share: float = 0.05
    shared: bool = False
    """What rows of a pass have in common goes through the model once."""

    @classmethod
    def of(cls, engine: EngineConfig, tokens: int | None = None) -> "PassBudget":
        """As `engine` says; `tokens` instead of its own."""
        return cls(tokens or engine.micro_batch_tokens, engine.max_padding_share, engine.shared_prompt)


@dataclass(frozen=True)
class MicroBatch:
    """One forward pass of one rank."""

    rows: tuple[int, ...]
    """Row numbers in the rank's own table; may be empty where another rank has more passes."""
    dummies: tuple[str, ...] = ()
    """Kinds of dummy row to add: media that only other ranks have in this pass, or "text" for an empty pass.
    A media tower that runs on one rank only would leave the others waiting in a ZeRO collective."""
    shared: bool = False
    """As `PassBudget.shared`."""


@dataclass(frozen=True)
class Shard:
    """The work of one rank."""

    rows: tuple[int, ...]
    """Row numbers in the entire table, in the order of the rank's own table."""
    steps: tuple[tuple[MicroBatch, ...], ...]
    """Optimizer steps, each a list of passes; the same lengths on every rank."""

    @property
    def passes(self) -> int:
        return sum(len(step) for step in self.steps)


def plan_shards(
    lengths: Sequence[int],
    kinds: Sequence[frozenset[str]],
    steps: Sequence[Sequence[int]],
    n_ranks: int,
    budget: PassBudget,
) -> list[Shard]:
    """Divide rows among ranks and passes.

    lengths: tokens of each row, media tokens counted. kinds: media kinds of each row. steps: the rows of each
    optimizer step.

    Raises ValueError for a row that is longer than a whole pass.
    """
    check_lengths(lengths, budget)
    own: list[list[int]] = [[] for _ in range(n_ranks)]
    plans: list[list[tuple[MicroBatch, ...]]] = [[] for _ in range(n_ranks)]
    for step in steps:
        passes = [fill_passes(share, lengths, budget) for share in _balance(step, lengths, n_ranks)]
        present = [[present_kinds(rows, kinds) for rows in of_rank] for of_rank in passes]
        everywhere = _union(present)
        for rank in range(n_ranks):
            aligned = _aligned(passes[rank], present[rank], everywhere)
            plans[rank].append(tuple(_local(p, own[rank], budget) for p in aligned))
    return [Shard(tuple(rows), tuple(plan)) for rows, plan in zip(own, plans, strict=True)]


def _balance(rows: Sequence[int], lengths: Sequence[int], n_ranks: int) -> list[list[int]]:
    """Longest first to the rank with the fewest tokens."""
    shares: list[list[int]] = [[] for _ in range(n_ranks)]
    loads = [(0, 0, rank) for rank in range(n_ranks)]  # a heap: tokens, rows, rank
    for row in sorted(rows, key=lambda r: (-lengths[r], r)):
        tokens, count, rank = loads[0]
        shares[rank].append(row)
        heapreplace(loads, (tokens + lengths[row], count + 1, rank))
    return shares


def check_lengths(lengths: Sequence[int], budget: PassBudget) -> None:
    """Raise ValueError for a row that is longer than a whole pass."""
    longest = max(lengths, default=0)
    if longest > budget.tokens:
        raise ValueError(
            f"row {lengths.index(longest)} has {longest} tokens, more than micro_batch_tokens={budget.tokens}; "
            f"raise it to at least {longest} or lower the prompt and response limits"
        )


def fill_passes(rows: Sequence[int], lengths: Sequence[int], budget: PassBudget) -> list[list[int]]:
    """Rows of like length together, longest first, while the budget holds."""
    passes: list[list[int]] = []
    used = 0
    for row in sorted(rows, key=lambda r: (-lengths[r], r)):
        if passes:
            positions = lengths[passes[-1][0]] * (len(passes[-1]) + 1)
            tokens = used + lengths[row]
            if positions <= budget.tokens and positions - tokens <= budget.max_padding_share * positions:
                passes[-1].append(row)
                used = tokens
                continue
        passes.append([row])
        used = lengths[row]
    return passes


def present_kinds(rows: Sequence[int], kinds: Sequence[frozenset[str]]) -> frozenset[str]:
    """Media kinds in a pass."""
    return frozenset[str]().union(*(kinds[row] for row in rows))


def align_passes(
    own: Sequence[Sequence[int]], present: Sequence[Sequence[frozenset[str]]], rank: int, shared: bool = False
) -> list[MicroBatch]:
    """One rank's passes, as many as any rank has, with dummies for the media kinds that only others have.

    own: the rank's rows, pass by pass. present: of every rank, the media kinds of each of its passes.
    """
    return [replace(micro_batch, shared=shared) for micro_batch in _aligned(own, present[rank], _union(present))]


def _union(present: Sequence[Sequence[frozenset[str]]]) -> list[frozenset[str]]:
    """Media kinds that any rank has, pass by pass."""
    return [frozenset[str]().union(*of_ranks) for of_ranks in zip_longest(*present, fillvalue=frozenset[str]())]


def _aligned(
    own: Sequence[Sequence[int]], present: Sequence[frozenset[str]], everywhere: Sequence[frozenset[str]]
) -> list[MicroBatch]:
    aligned = []
    for number, kinds in enumerate(everywhere):
        rows = tuple(own[number]) if number < len(own) else ()
        dummies = tuple(sorted(kinds - present[number])) if number < len(present) else tuple(sorted(kinds))
        aligned.append(MicroBatch(rows, dummies if rows or dummies else ("text",)))
    return aligned


def _local(micro_batch: MicroBatch, own: list[int], budget: PassBudget) -> MicroBatch:
    start = len(own)
    own.extend(micro_batch.rows)
    return MicroBatch(tuple(range(start, len(own))), micro_batch.dummies, budget.shared)


def one_pass_plan(
    lengths: Sequence[int], kinds: Sequence[frozenset[str]], n_ranks: int, budget: PassBudget
) -> list[Shard]:
    """plan_shards() for work without optimizer steps: every row once."""
    return plan_shards(lengths, kinds, [range(len(lengths))], n_ranks, budget)


def media_kinds(modality: str) -> frozenset[str]:
    """Media kinds named by a row's `modality`."""
    return frozenset(modality.split("+")) - {"text"}


def padding_share(shards: Sequence[Shard], lengths: Sequence[int]) -> float:
    """Share of the positions that go through the model which are padding."""
    padded = real = 0
    for shard in shards:
        for step in shard.steps:
            for micro_batch in step:
                tokens = [lengths[shard.rows[row]] for row in micro_batch.rows]
                padded += max(tokens, default=0) * len(tokens)
                real += sum(tokens)
    return 1.0 - real / padded if padded else 0.0
