"""Which positions of the endless sequence of prompts are used up, so that a restart loses none and repeats none."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Consumed:
    """The positions that are used up: all below `next` but the unfinished ones."""

    next: int = 0
    """The first position that was never drawn."""
    unfinished: tuple[int, ...] = ()
    """Drawn, but neither trained on nor left out for good; in the order in which they are to be drawn again."""

    def to_dict(self) -> dict[str, Any]:
        """For checkpoints; JSON."""
        return {"next": self.next, "unfinished": list(self.unfinished)}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> "Consumed":
        """The inverse of `to_dict`."""
        return cls(state["next"], tuple(state["unfinished"]))


class Ledger:
    """Draws positions and notes what becomes of them. A position is settled once, or drawn again.

    A response's seed hangs on its position, so a position that is drawn again means the same prompt and the same dice.
    """

    def __init__(self, consumed: Consumed):
        self._next = consumed.next
        self._again = deque(consumed.unfinished)
        self._open: dict[int, None] = {}
        """Drawn and not settled, in the order drawn."""

    @property
    def consumed(self) -> Consumed:
        """For a checkpoint."""
        return Consumed(self._next, (*self._open, *self._again))

    def draw(self) -> int:
        """The next position: one that must be drawn again, or else a new one."""
        if self._again:
            position = self._again.popleft()
        else:
            position, self._next = self._next, self._next + 1
        self._open[position] = None
        return position

    def settle(self, position: int) -> None:
        """The position is used up. Raises ValueError unless it is open: nothing is used up twice."""
        self._close(position)

    def release(self, position: int) -> None:
        """The position is to be drawn again. Raises ValueError unless it is open."""
        self._close(position)
        self._again.append(position)

    def _close(self, position: int) -> None:
        if position not in self._open:
            raise ValueError(f"position {position} is not open: it was never drawn, or is settled already")
        del self._open[position]
