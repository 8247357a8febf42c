"""Cases: the records of a task as arrays, ready to be decided."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mmrlhf_ray.discrete.spaces import PRESENT, TASK

Observations = dict[str, np.ndarray]
"""As `spaces.observation_space`, each with a first dimension for the rows."""


@dataclass(frozen=True)
class Column:
    """One modality of n rows. Media that several rows show are kept once, pictures as bytes."""

    media: np.ndarray
    """[media, …], uint8 0…255, float32 or int64."""
    rows: np.ndarray
    """int64 [n]: number of the row's medium, −1 = the row has none."""

    def take(self, rows: np.ndarray) -> np.ndarray:
        """[len(rows), …]: uint8 becomes float32 in 0…1; 0 where a row has no medium."""
        numbers = self.rows[rows]
        if not len(self.media):
            found = np.zeros((len(numbers), *self.media.shape[1:]), self.media.dtype)
        else:
            found = self.media[np.maximum(numbers, 0)]
        if found.dtype == np.uint8:
            found = found.astype(np.float32) / np.float32(255)
        found[numbers < 0] = 0
        return found


@dataclass(frozen=True)
class Cases:
    """n rows of one task. Rewards are looked up by (row, action); nothing is computed when a decision is made."""

    task: str
    task_number: int
    """In the configuration's `tasks`."""
    tasks: int
    """How many there are."""
    actions: tuple[str, ...]
    """The decisions, as text."""
    columns: Mapping[str, Column]
    """By modality, in the configuration's order."""
    scores: np.ndarray
    """float32 [n, actions] in 0…1: accuracy, F1 or IoU of each decision."""
    prompt_ids: tuple[str, ...]
    messages: tuple[str, ...]
    """JSON, as in the records."""
    media_ids: tuple[tuple[str, ...], ...]

    def __len__(self) -> int:
        return len(self.prompt_ids)

    @property
    def labels(self) -> np.ndarray:
        """int64 [n]: the best decision of each row, the first of equals."""
        return self.scores.argmax(axis=1)

    def present(self, rows: np.ndarray) -> np.ndarray:
        """bool [len(rows), modalities]: which of them the records have."""
        return np.stack([column.rows[rows] >= 0 for column in self.columns.values()], axis=1)

    def observations(
        self, rows: Sequence[int] | np.ndarray, show: Collection[str] | np.ndarray | None = None
    ) -> Observations:
        """Observations of `rows`, as the environment makes them.

        show: names of the modalities that may be seen, or bool [len(rows), modalities]; None = all that is there.
        """
        rows = np.asarray(rows, np.int64)
        shown = self.present(rows)
        if isinstance(show, np.ndarray):
            shown &= show
        elif show is not None:
            unknown = set(show) - set(self.columns)
            if unknown:
                raise ValueError(f"show: no modality {sorted(unknown)[0]!r}; there are {', '.join(self.columns)}")
            shown &= np.array([name in show for name in self.columns])
        made: Observations = {PRESENT: shown.astype(np.float32)}
        for number, (name, column) in enumerate(self.columns.items()):
            made[name] = column.take(rows)
            made[name][~shown[:, number]] = 0
        if self.tasks > 1:
            made[TASK] = np.zeros((len(rows), self.tasks), np.float32)
            made[TASK][:, self.task_number] = 1.0
        return made

    def subset(self, rows: Sequence[int] | np.ndarray) -> "Cases":
        """The same cases with these rows only."""
        rows = np.asarray(rows, np.int64)
        return replace(
            self,
            columns={name: replace(column, rows=column.rows[rows]) for name, column in self.columns.items()},
            scores=self.scores[rows],
            prompt_ids=tuple(self.prompt_ids[row] for row in rows),
            messages=tuple(self.messages[row] for row in rows),
            media_ids=tuple(self.media_ids[row] for row in rows),
        )

    def followed_by(self, other: "Cases") -> "Cases":
        """These rows, then those of `other`, which are of the same task."""
        if (self.task, self.actions) != (other.task, other.actions):
            raise ValueError(f"cases of {self.task} cannot be joined with cases of {other.task}")
        return replace(
            self,
            columns={name: _joined(column, other.columns[name]) for name, column in self.columns.items()},
            scores=np.concatenate([self.scores, other.scores]),
            prompt_ids=self.prompt_ids + other.prompt_ids,
            messages=self.messages + other.messages,
            media_ids=self.media_ids + other.media_ids,
        )


def _joined(first: Column, second: Column) -> Column:
    moved = np.where(second.rows >= 0, second.rows + len(first.media), -1)
    return Column(np.concatenate([first.media, second.media]), np.concatenate([first.rows, moved]))
