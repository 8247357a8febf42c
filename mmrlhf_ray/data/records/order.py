"""In which order rows are read: an endless sequence, whose every position can be computed without the ones before.

An epoch of a source is each of its rows once. Shuffling permutes the fragments of each epoch, then the rows within
windows of a few fragments, so that rows of one window are all that must be at hand.
"""

import heapq
from collections import OrderedDict
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache
from math import gcd, lcm

import numpy as np

from mmrlhf_ray.errors import ConfigError

WINDOW = 4
"""Fragments whose rows are mixed."""

_LONGEST_CYCLE = 1_000_000


@dataclass(frozen=True)
class Place:
    """The row at a position."""

    source: int
    epoch: int
    """How often the source has been read to its end before."""
    fragment: int
    """Number in the source's fragments."""
    row: int
    """Number in the fragment."""


@dataclass(frozen=True)
class Order:
    """The sequence of a mixture."""

    sizes: tuple[tuple[int, ...], ...]
    """Of each source, the rows of each of its fragments."""
    weights: tuple[float, ...]
    """After any number of rows each source has had its share of them, to within one row."""
    seed: int
    shuffle: bool = True
    """False: one source after the other, row by row, whatever the weights; then again from the start."""
    window: int = WINDOW

    def __post_init__(self) -> None:
        assert all(sum(sizes) for sizes in self.sizes), "each source has rows"
        assert len(self.sizes) == len(self.weights), "each source has a weight"

    @property
    def rows(self) -> int:
        """Rows of all sources, each counted once."""
        return sum(self._totals)

    @cached_property
    def _totals(self) -> tuple[int, ...]:
        """Rows of each source."""
        return tuple(map(sum, self.sizes))

    @cached_property
    def _ends(self) -> tuple[np.ndarray, ...]:
        """Of each source, the rows up to the end of each fragment."""
        return tuple(np.cumsum(sizes) for sizes in self.sizes)

    @cached_property
    def _epochs(self) -> OrderedDict[tuple[int, int], tuple[np.ndarray, np.ndarray]]:
        return OrderedDict()

    def place(self, position: int) -> Place:
        """The row at `position`, from 0. Raises ConfigError for weights with too many digits."""
        if not self.shuffle:
            return self.in_file_order(position)
        cycle = interleaving(self.weights)
        turns, slot = divmod(position, len(cycle.sources))
        source = int(cycle.sources[slot])
        number = turns * cycle.counts[source] + int(cycle.before[slot])
        epoch, offset = divmod(number, self._totals[source])
        fragment, row = self._shuffled(source, epoch, offset)
        return Place(source, epoch, fragment, row)

    def in_file_order(self, position: int) -> Place:
        """The row at `position` where one source comes after the other, row by row."""
        epoch, offset = divmod(position, self.rows)
        ends = np.cumsum(self._totals)
        source = int(np.searchsorted(ends, offset, side="right"))
        fragment, row = _divided(self._ends[source], offset - int(ends[source]) + self._totals[source])
        return Place(source, epoch, fragment, row)

    def _shuffled(self, source: int, epoch: int, offset: int) -> tuple[int, int]:
        """(fragment, row) of the row that comes `offset` rows after the start of the epoch."""
        fragments, ends = self._epoch(source, epoch)
        window, into = _divided(ends, offset)
        members = fragments[window * self.window : (window + 1) * self.window]
        own = np.cumsum([self.sizes[source][f] for f in members])
        drawn = _permutation(int(own[-1]), (self.seed, source, epoch, window))[into]
        member, row = _divided(own, int(drawn))
        return int(members[member]), row

    def _epoch(self, source: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """(fragments in the epoch's order, rows up to the end of each window)."""
        if (source, epoch) not in self._epochs:
            sizes = self.sizes[source]
            order = np.random.default_rng((self.seed, source, epoch)).permutation(len(sizes))
            ends = np.cumsum(np.asarray(sizes)[order])
            last = np.minimum(np.arange(self.window, len(sizes) + self.window, self.window), len(sizes)) - 1
            self._epochs[source, epoch] = (order, ends[last])
            while len(self._epochs) > 2 * len(self.sizes):
                self._epochs.popitem(last=False)
        return self._epochs[source, epoch]


@dataclass(frozen=True)
class Interleaving:
    """Whose turn it is, slot by slot; repeated forever."""

    sources: np.ndarray
    """[slots] number of the source."""
    before: np.ndarray
    """[slots] turns that this source has had before."""
    counts: tuple[int, ...]
    """Turns of each source in all slots."""


@lru_cache(maxsize=8)
def interleaving(weights: tuple[float, ...]) -> Interleaving:
    """Turns in proportion to `weights`, at any point to within one.

    The k-th turn of a source with share w may come from slot k/w on and must come before slot (k + 1)/w; of those
    that may, the most urgent is taken. That such a schedule always exists and that this rule finds it is known from
    fair scheduling (Baruah et al., "Proportionate progress", Algorithmica 15, 1996).

    Raises ConfigError where the slots would be too many to lay out.
    """
    shares = [Fraction(str(weight)) for weight in weights]
    scale = lcm(*(share.denominator for share in shares))
    counts = [int(share * scale) for share in shares]
    divisor = gcd(*counts)
    counts = [count // divisor for count in counts]
    slots = sum(counts)
    if slots > _LONGEST_CYCLE:
        raise ConfigError(f"data.sources: weights {list(weights)} have too many digits; round them, as in 0.7 and 0.3")
    sources, before = np.empty(slots, np.int32), np.empty(slots, np.int64)
    waiting = [(0, source, 0) for source in range(len(counts))]  # (first slot, source, turn)
    ready: list[tuple[int, int, int]] = []  # (slot before which the turn must come, source, turn)
    for slot in range(slots):
        while waiting and waiting[0][0] <= slot:
            _, source, turn = heapq.heappop(waiting)
            heapq.heappush(ready, (-(-(turn + 1) * slots // counts[source]), source, turn))
        _, source, turn = heapq.heappop(ready)
        sources[slot], before[slot] = source, turn
        heapq.heappush(waiting, ((turn + 1) * slots // counts[source], source, turn + 1))
    return Interleaving(sources, before, tuple(counts))


def _divided(ends: np.ndarray, offset: int) -> tuple[int, int]:
    """(part, offset in it) where part after part ends at `ends`."""
    part = int(np.searchsorted(ends, offset, side="right"))
    return part, offset - (int(ends[part - 1]) if part else 0)


@lru_cache(maxsize=64)
def _permutation(n: int, seed: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(seed).permutation(n)
