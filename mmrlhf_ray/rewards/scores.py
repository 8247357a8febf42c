"""One component's scores of a step's responses."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class ComponentScores:
    """One entry per row. A number, or None: then `problems` says why it is missing, or nothing if it does not apply."""

    values: tuple[float | None, ...]
    problems: tuple[str | None, ...]
    side_changes: tuple[float | None, ...] = ()
    """Of a judge that compares responses: the share of a row's comparisons in which swapping the sides changed the
    winner; None where there is no score, () for all other components."""

    def __post_init__(self) -> None:
        for name, entries in (("problems", self.problems), ("side_changes", self.side_changes or self.values)):
            if len(entries) != len(self.values):
                raise ValueError(f"{name} expects {len(self.values)} entries as in values, got {len(entries)}")

    @classmethod
    def of(cls, values: Iterable[float]) -> "ComponentScores":
        """Numbers for every row."""
        numbers = tuple(float(v) for v in values)
        return cls(numbers, (None,) * len(numbers))

    @classmethod
    def missing(cls, count: int, problem: str) -> "ComponentScores":
        """No number for any of `count` rows, all for the same reason."""
        return cls((None,) * count, (problem,) * count)

    @classmethod
    def concat(cls, parts: Sequence["ComponentScores"]) -> "ComponentScores":
        """The rows of several batches one after another."""
        return cls(
            tuple(value for part in parts for value in part.values),
            tuple(problem for part in parts for problem in part.problems),
            tuple(change for part in parts for change in part._changes) if any(p.side_changes for p in parts) else (),
        )

    @property
    def _changes(self) -> tuple[float | None, ...]:
        return self.side_changes or (None,) * len(self.values)

    def select(self, rows: Sequence[int]) -> "ComponentScores":
        """The given rows, in the given order."""
        changes = tuple(self.side_changes[i] for i in rows) if self.side_changes else ()
        return ComponentScores(tuple(self.values[i] for i in rows), tuple(self.problems[i] for i in rows), changes)

    def scatter(self, rows: Sequence[int], count: int) -> "ComponentScores":
        """These scores at `rows` of `count` rows; the component does not apply to the others."""
        values: list[float | None] = [None] * count
        problems: list[str | None] = [None] * count
        changes: list[float | None] = [None] * count
        for row, value, problem, change in zip(rows, self.values, self.problems, self._changes, strict=True):
            values[row], problems[row], changes[row] = value, problem, change
        return ComponentScores(tuple(values), tuple(problems), tuple(changes) if self.side_changes else ())
