"""Which rows go through the model together. Every rank gets the same number of passes over the same media towers."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from heapq import heapreplace
from itertools import pairwise, zip_longest
from typing import TYPE_CHECKING

from mmrlhf_ray.config.learner import EngineConfig

if TYPE_CHECKING:  # generators read this module, and no model
    from mmrlhf_ray.models import ModelAdapter


@dataclass(frozen=True)
class PassBudget:
    """How large a pass may be."""

    tokens: int
    """Positions of one rank, padding and media tokens counted."""
    max_padding_share: float = 0.05
    shared: bool = False
    """Rows are laid in lines, where a prompt that several have in common stands once."""
    packed: bool = False
    """The rows of a pass without a shared prompt are laid in one line, so that none of it is padding and attention
    needs no mask."""

    one_line: bool = False
    """A pass is one line, whose attention costs more the longer it is."""

    @classmethod
    def of(
        cls,
        engine: EngineConfig,
        adapters: "Iterable[ModelAdapter]",
        tokens: int | None = None,
        *,
        packed: bool = False,
    ) -> "PassBudget":
        """As `engine` says, for models of these families; `tokens` instead of its own; `packed` where they can."""
        in_lines = all(adapter.shared_rows is not None for adapter in adapters)
        shared = engine.shared_prompt and in_lines
        return cls(tokens or engine.micro_batch_tokens, engine.max_padding_share, shared, packed and in_lines)

    def over(self, ranks: int) -> "PassBudget":
        """For passes that are each spread over this many ranks."""
        if ranks == 1:
            return self
        return replace(self, tokens=self.tokens * ranks, packed=self.packed or not self.shared, one_line=True)


@dataclass(frozen=True)
class SharedPrompts:
    """What rows have in common."""

    groups: Sequence[int]
    """Of each row; rows of one group have the same prompt."""
    tokens: Sequence[int]
    """Of each row's prompt, media tokens counted."""

    def cost(self, rows: Sequence[int], lengths: Sequence[int]) -> int:
        """Tokens of rows in one line, a group's prompt counted once."""
        prompts = {self.groups[row]: self.tokens[row] for row in rows}
        return sum(prompts.values()) + sum(lengths[row] - self.tokens[row] for row in rows)


@dataclass(frozen=True)
class MicroBatch:
    """One forward pass of one rank."""

    rows: tuple[int, ...]
    """Row numbers in the rank's own table; may be empty where another rank has more passes."""
    dummies: tuple[str, ...] = ()
    """Kinds of dummy row to add: media that only other ranks have in this pass, or "text" for an empty pass.
    A media tower that runs on one rank only would leave the others waiting in a ZeRO collective."""
    lines: tuple[int, ...] | None = None
    """The line of each row; None = every row is a line by itself, with its own prompt."""
    packed: bool = False
    """All rows stand in one line, each with its own prompt."""


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
    prompts: SharedPrompts | None = None,
) -> list[Shard]:
    """Divide rows among ranks and passes.

    lengths: tokens of each row, media tokens counted. kinds: media kinds of each row. steps: the rows of each
    optimizer step. prompts: what the rows have in common, for a budget that is shared; None = nothing.

    Raises ValueError for a row that is longer than a whole pass.
    """
    check_lengths(lengths, budget)
    own: list[list[int]] = [[] for _ in range(n_ranks)]
    plans: list[list[tuple[MicroBatch, ...]]] = [[] for _ in range(n_ranks)]
    known = prompts if prompts and budget.shared else _nothing_shared(lengths)
    for step in steps:
        if budget.shared or budget.packed:
            passes = _in_lines(step, lengths, known, n_ranks, budget)
        else:
            passes = [fill_passes(share, lengths, budget) for share in _balance(step, lengths, n_ranks)]
        present = [[present_kinds(p.rows, kinds) for p in of_rank] for of_rank in passes]
        everywhere = _union(present)
        for rank in range(n_ranks):
            aligned = _aligned(passes[rank], present[rank], everywhere)
            plans[rank].append(tuple(_local(p, own[rank]) for p in aligned))
    return [Shard(tuple(rows), tuple(plan)) for rows, plan in zip(own, plans, strict=True)]


def _nothing_shared(lengths: Sequence[int]) -> SharedPrompts:
    return SharedPrompts(range(len(lengths)), [0] * len(lengths))


def _in_lines(
    step: Sequence[int], lengths: Sequence[int], prompts: SharedPrompts, n_ranks: int, budget: PassBudget
) -> list[list[MicroBatch]]:
    """Of each rank. Groups stay together unless one is too large for a rank's share or for a pass."""
    pieces = _pieces(step, lengths, prompts, n_ranks, budget)
    costs = [prompts.cost(piece, lengths) for piece in pieces]
    shares = _balance(range(len(pieces)), costs, n_ranks)
    return [[in_lines(lines, pieces, budget) for lines in fill_lines(share, costs, budget)] for share in shares]


def _pieces(
    step: Sequence[int], lengths: Sequence[int], prompts: SharedPrompts, n_ranks: int, budget: PassBudget
) -> list[list[int]]:
    """The rows of each group, in as many pieces as make a good share of a rank and fit into a pass."""
    groups: dict[int, list[int]] = {}
    for row in step:
        groups.setdefault(prompts.groups[row], []).append(row)
    share = sum(prompts.cost(rows, lengths) for rows in groups.values()) / n_ranks
    pieces: list[list[int]] = []
    for rows in groups.values():
        count = min(len(rows), max(1, round(prompts.cost(rows, lengths) / share)))
        cut = _cut(rows, count)
        while any(prompts.cost(piece, lengths) > budget.tokens for piece in cut):
            count += 1
            cut = _cut(rows, count)
        pieces += cut
    return pieces


def _cut(rows: Sequence[int], count: int) -> list[list[int]]:
    ends = [len(rows) * i // count for i in range(count + 1)]
    return [list(rows[first:last]) for first, last in pairwise(ends)]


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


def fill_passes(rows: Sequence[int], lengths: Sequence[int], budget: PassBudget) -> list[MicroBatch]:
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
    return [MicroBatch(tuple(rows)) for rows in passes]


def fill_lines(pieces: Sequence[int], costs: Sequence[int], budget: PassBudget) -> list[list[list[int]]]:
    """The pieces of each line of each pass: pieces of like size together, longest first, while the budget holds."""
    passes: list[list[int]] = []
    used, most = 0, budget.tokens * (1.0 - budget.max_padding_share)
    for piece in sorted(pieces, key=lambda p: (-costs[p], p)):
        if passes and used + costs[piece] <= most:
            passes[-1].append(piece)
            used += costs[piece]
        else:
            passes.append([piece])
            used = costs[piece]
    return [[own] if budget.one_line else _lines(own, costs, budget.max_padding_share) for own in passes]


def _lines(pieces: Sequence[int], costs: Sequence[int], max_padding_share: float) -> list[list[int]]:
    """The most lines, and so the shortest, that leave little padding: attention costs a line's length squared."""
    tokens, count = sum(costs[p] for p in pieces), len(pieces)
    while True:
        lines = _balance(pieces, costs, count)
        positions = count * max(sum(costs[p] for p in line) for line in lines)
        if count == 1 or positions - tokens <= max_padding_share * positions:
            return lines
        count = max(1, count * 3 // 4)


def in_lines(lines: Sequence[Sequence[int]], pieces: Sequence[Sequence[int]], budget: PassBudget) -> MicroBatch:
    """A pass of these lines of pieces, which are rows that may share a prompt; packed where the budget has it and
    nothing is shared."""
    placed = [(row, number) for number, line in enumerate(lines) for piece in line for row in pieces[piece]]
    alone = not budget.shared or all(len(pieces[piece]) == 1 for line in lines for piece in line)
    packed = budget.packed and alone
    rows, numbers = tuple(row for row, _ in placed), tuple(0 if packed else line for _, line in placed)
    return MicroBatch(rows, lines=numbers, packed=packed)


def present_kinds(rows: Sequence[int], kinds: Sequence[frozenset[str]]) -> frozenset[str]:
    """Media kinds in a pass."""
    return frozenset[str]().union(*(kinds[row] for row in rows))


def align_passes(own: Sequence[MicroBatch], present: Sequence[Sequence[frozenset[str]]], rank: int) -> list[MicroBatch]:
    """One rank's passes, as many as any rank has, with dummies for the media kinds that only others have.

    own: the rank's passes without dummies. present: of every rank, the media kinds of each of its passes.
    """
    return _aligned(own, present[rank], _union(present))


def _union(present: Sequence[Sequence[frozenset[str]]]) -> list[frozenset[str]]:
    """Media kinds that any rank has, pass by pass."""
    return [frozenset[str]().union(*of_ranks) for of_ranks in zip_longest(*present, fillvalue=frozenset[str]())]


def _aligned(
    own: Sequence[MicroBatch], present: Sequence[frozenset[str]], everywhere: Sequence[frozenset[str]]
) -> list[MicroBatch]:
    aligned = []
    for number, kinds in enumerate(everywhere):
        if number < len(own):
            aligned.append(replace(own[number], dummies=tuple(sorted(kinds - present[number]))))
        else:
            aligned.append(MicroBatch((), tuple(sorted(kinds)) or ("text",)))
    return aligned


def _local(micro_batch: MicroBatch, own: list[int]) -> MicroBatch:
    start = len(own)
    own.extend(micro_batch.rows)
    return replace(micro_batch, rows=tuple(range(start, len(own))))


def one_pass_plan(
    lengths: Sequence[int],
    kinds: Sequence[frozenset[str]],
    n_ranks: int,
    budget: PassBudget,
    prompts: SharedPrompts | None = None,
) -> list[Shard]:
    """plan_shards() for work without optimizer steps: every row once."""
    return plan_shards(lengths, kinds, [range(len(lengths))], n_ranks, budget, prompts)


def media_kinds(modality: str) -> frozenset[str]:
    """Media kinds named by a row's `modality`."""
    return frozenset(modality.split("+")) - {"text"}


def padding_share(shards: Sequence[Shard], lengths: Sequence[int], prompts: SharedPrompts | None = None) -> float:
    """Share of the positions that go through the model which are padding. `prompts`: as of plan_shards()."""
    alone = _nothing_shared(lengths)
    padded = real = 0
    for shard in shards:
        for micro_batch in (micro_batch for step in shard.steps for micro_batch in step):
            rows = [shard.rows[row] for row in micro_batch.rows]
            lines: dict[int, list[int]] = {}
            for row, line in zip(rows, micro_batch.lines or range(len(rows)), strict=True):
                lines.setdefault(line, []).append(row)
            known = alone if micro_batch.packed else prompts or alone
            tokens = [known.cost(line, lengths) for line in lines.values()]
            padded += max(tokens, default=0) * len(tokens)
            real += sum(tokens)
    return 1.0 - real / padded if padded else 0.0
