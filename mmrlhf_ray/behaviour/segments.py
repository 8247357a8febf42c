"""Segments of behaviour as values: what training may see, what only judges see, and how to see it again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmrlhf_ray.behaviour.spaces import Observation

Facts = Mapping[str, Any]
"""What a judge is told of one step beyond observation and action."""


@dataclass(frozen=True)
class Segment:
    """T steps as reward models see them."""

    observations: Observation
    """Modality → [T, …]: what was seen before each action."""
    actions: np.ndarray
    """int64 [T], or float32 [T, n] from −1 to 1."""

    def __len__(self) -> int:
        return len(self.actions)


@dataclass(frozen=True)
class Replay:
    """An episode up to some step, to be played again: an environment's chance comes from its seed alone."""

    seed: int
    actions: np.ndarray
    """All actions from the start of the episode to the end of what is shown."""
    shown: int
    """The last steps of these that are shown."""

    @property
    def name(self) -> str:
        """The same for the same steps of the same episode."""
        return f"{self.seed:08x}-{len(self.actions) - self.shown:05d}-{self.shown:04d}"


@dataclass(frozen=True)
class Clip:
    """A segment that can be shown."""

    segment: Segment
    replay: Replay

    @property
    def name(self) -> str:
        return self.replay.name


@dataclass(frozen=True)
class Recorded(Clip):
    """A segment with what is kept from training."""

    true_rewards: np.ndarray
    """float32 [T]: the environment's own. For simulated annotators and figures alone."""
    costs: np.ndarray
    """float32 [T]."""
    facts: Sequence[Facts]
    """Of each step, after it."""


def stacked(segments: Sequence[Segment]) -> Segment:
    """[n, T, …] of segments of one length."""
    first = segments[0]
    return Segment(
        {name: np.stack([s.observations[name] for s in segments]) for name in first.observations},
        np.stack([s.actions for s in segments]),
    )
