"""One component's scores of a step's responses."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class ComponentScores:
    """One entry per row. A number, or None: then `problems` says why it is missing, or nothing if it does not apply."""

    values: tuple[float | None, ...]
    problems: tuple[str | None, ...]

    def __post_init__(self) -> None:
        if len(self.values) != len(self.problems):
            raise ValueError(f"problems expects {len(self.values)} entries as in values, got {len(self.problems)}")

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
        )

    def select(self, rows: Sequence[int]) -> "ComponentScores":
        """The given rows, in the given order."""
        return ComponentScores(tuple(self.values[i] for i in rows), tuple(self.problems[i] for i in rows))

    def scatter(self, rows: Sequence[int], count: int) -> "ComponentScores":
        """These scores at `rows` of `count` rows; the component does not apply to the others."""
        values: list[float | None] = [None] * count
        problems: list[str | None] = [None] * count
        for row, value, problem in zip(rows, self.values, self.problems, strict=True):
            values[row], problems[row] = value, problem
        return ComponentScores(tuple(values), tuple(problems))
