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
    turns: tuple[tuple[float | None, ...], ...] = ()
    """Of a component that scores turns: each row's numbers, turn by turn, which add up to its value; None for a turn
    without one, () for a row without any; () for all other components."""

    def __post_init__(self) -> None:
        lengths = {"problems": self.problems, "side_changes": self._changes, "turns": self._turns}
        for name, entries in lengths.items():
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
            tuple(own for part in parts for own in part._turns) if any(part.turns for part in parts) else (),
        )

    @classmethod
    def of_turns(cls, said: "ComponentScores", owners: Sequence[int], count: int) -> "ComponentScores":
        """Of `count` rows. said: one entry for each turn; owners: the row that each turn is of, in order. A row's value
        is the sum of its turns' numbers; one turn's problem is the row's."""
        turns: list[list[float | None]] = [[] for _ in range(count)]
        problems: list[str | None] = [None] * count
        for owner, value, problem in zip(owners, said.values, said.problems, strict=True):
            turns[owner].append(value)
            if problem is not None and problems[owner] is None:
                problems[owner] = f"turn {len(turns[owner])}: {problem}"
        given = [[value for value in own if value is not None] for own in turns]
        values = [sum(own) if own and problem is None else None for own, problem in zip(given, problems, strict=True)]
        kept = tuple(tuple(own) if value is not None else () for own, value in zip(turns, values, strict=True))
        return cls(tuple(values), tuple(problems), turns=kept)

    @property
    def _changes(self) -> tuple[float | None, ...]:
        return self.side_changes or (None,) * len(self.values)

    @property
    def _turns(self) -> tuple[tuple[float | None, ...], ...]:
        return self.turns or ((),) * len(self.values)

    def select(self, rows: Sequence[int]) -> "ComponentScores":
        """The given rows, in the given order."""
        changes = tuple(self.side_changes[i] for i in rows) if self.side_changes else ()
        turns = tuple(self.turns[i] for i in rows) if self.turns else ()
        return ComponentScores(
            tuple(self.values[i] for i in rows), tuple(self.problems[i] for i in rows), changes, turns
        )

    def scatter(self, rows: Sequence[int], count: int) -> "ComponentScores":
        """These scores at `rows` of `count` rows; the component does not apply to the others."""
        values: list[float | None] = [None] * count
        problems: list[str | None] = [None] * count
        changes: list[float | None] = [None] * count
        for row, value, problem, change in zip(rows, self.values, self.problems, self._changes, strict=True):
            values[row], problems[row], changes[row] = value, problem, change
        return ComponentScores(tuple(values), tuple(problems), tuple(changes) if self.side_changes else ())
