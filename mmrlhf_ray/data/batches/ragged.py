"""Numbers of rows of different lengths in one flat buffer, as Arrow has them: no object per row or number."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


@dataclass(frozen=True)
class Ragged:
    """Rows one after the other."""

    values: np.ndarray
    """[N]."""
    offsets: np.ndarray
    """int64 [rows + 1], from 0 to N; row i is values[offsets[i] : offsets[i + 1]]."""

    @classmethod
    def of_column(cls, column: pa.ChunkedArray) -> "Ragged":
        """A list column without nulls, in place: read-only, copied only where it has several chunks or holds bits."""
        lists = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
        ends = lists.offsets.to_numpy().astype(np.int64)
        values = lists.values.slice(ends[0], ends[-1] - ends[0])
        return cls(values.to_numpy(zero_copy_only=False), ends - ends[0])

    @classmethod
    def of_rows(cls, rows: Sequence[np.ndarray], dtype: np.dtype | type = np.float32) -> "Ragged":
        """Arrays [T] of each row."""
        values = np.concatenate([np.empty(0, dtype), *rows]).astype(dtype, copy=False)
        return cls(values, offsets_of([len(row) for row in rows]))

    @classmethod
    def concat(cls, parts: Sequence["Ragged"]) -> "Ragged":
        """The rows of several one after the other."""
        lengths = np.concatenate([part.lengths for part in parts])
        return cls(np.concatenate([part.values for part in parts]), offsets_of(lengths))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self.values[first:last] for first, last in pairwise(self.offsets.tolist()))

    @property
    def lengths(self) -> np.ndarray:
        """int64 [rows]."""
        return np.diff(self.offsets)

    def sums(self) -> np.ndarray:
        """Sum of each row, float64 [rows]; 0 of an empty row."""
        # reduceat() takes an empty segment for one number, so empty rows are left out.
        full = self.offsets[:-1] < self.offsets[1:]
        sums = np.zeros(len(self))
        if full.any():
            sums[full] = np.add.reduceat(self.values, self.offsets[:-1][full], dtype=np.float64)
        return sums

    def means(self) -> np.ndarray:
        """Mean of each row, float64 [rows]; NaN of an empty row."""
        with np.errstate(invalid="ignore"):
            return self.sums() / self.lengths

    def take(self, rows: Sequence[int] | np.ndarray) -> "Ragged":
        """These rows, in this order."""
        chosen = np.asarray(rows, np.int64)
        taken = Ragged(np.empty(int(self.lengths[chosen].sum()), self.values.dtype), offsets_of(self.lengths[chosen]))
        for row, source in zip(taken, chosen.tolist(), strict=True):
            row[:] = self.values[self.offsets[source] : self.offsets[source + 1]]
        return taken

    def where(self, chosen: "Ragged") -> "Ragged":
        """The values that `chosen`, bool and of the same lengths, is true for."""
        if chosen.values.all():
            return self
        return Ragged(self.values[chosen.values], offsets_of(chosen.sums()))

    def to_arrow(self) -> pa.ListArray:
        """A list array over the same buffer."""
        return pa.ListArray.from_arrays(pa.array(self.offsets.astype(np.int32)), pa.array(self.values))


def offsets_of(lengths: Sequence[int] | np.ndarray) -> np.ndarray:
    """`Ragged.offsets` of rows of these lengths."""
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def gather(parts: Sequence[Ragged], rows: Sequence[Sequence[int]]) -> Ragged:
    """The rows of several parts as one: rows[i] are the numbers that the rows of parts[i] have in it.

    Raises ValueError where a part has another number of rows.
    """
    count = sum(map(len, rows))
    lengths = np.zeros(count, np.int64)
    for part, own in zip(parts, rows, strict=True):
        lengths[np.asarray(own, np.int64)] = part.lengths
    offsets = offsets_of(lengths)
    values = np.empty(int(offsets[-1]), parts[0].values.dtype)
    starts = offsets.tolist()
    for part, own in zip(parts, rows, strict=True):
        for number, row in zip(own, part, strict=True):
            values[starts[number] : starts[number] + len(row)] = row
    return Ragged(values, offsets)


def row_lengths(table: pa.Table, name: str) -> np.ndarray:
    """Entries of each row of a list column, int64 [rows]."""
    lengths: np.ndarray = pc.list_value_length(table.column(name)).to_numpy().astype(np.int64)
    return lengths
