"""The interface of an environment: an episode begins with a prompt, and every turn of the policy is answered."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Shown:
    """A clip in an observation."""

    kind: str
    """image, audio or video."""
    mime: str
    data: bytes
    """Encoded; what we encode ourselves is PNG, WAV of 16 bits, or WebM (lossless VP9)."""


Part = str | Shown
"""Text or a clip; observations are parts in the order shown."""


@dataclass(frozen=True)
class Start:
    """What an episode begins with."""

    prompt_id: str
    task: str
    messages: str
    """JSON, as in PROMPT."""
    extras: str
    """JSON, as in PROMPT; ground truth is for the environment alone, never for the policy."""
    media: tuple[Shown, ...]
    """Of the prompt, in its order."""
    seed: int


@dataclass(frozen=True)
class Step:
    """What follows from a turn of the policy."""

    observation: tuple[Part, ...]
    """Empty when the episode is done and nothing is left to say."""
    reward: float | None
    """Of this turn; None where the environment gives none."""
    done: bool
    problem: str | None = None
    """Why a tool failed or a call could not be run; the policy was told as well."""


class Environment(Protocol):
    """One episode. Lives in a child process; see environments.pool for the other side."""

    def reset(self, start: Start) -> tuple[Part, ...]:
        """What the policy is shown beyond its prompt, often nothing."""
        ...

    def step(self, response: str) -> Step:
        """What follows from the policy's turn."""
        ...

    def close(self) -> None:
        """Give back what the episode holds."""
        ...


class EpisodeFailed(Exception):
    """Why an episode cannot go on. It leaves its group with this reason and is drawn again."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
