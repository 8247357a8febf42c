"""Where tensors lie in a bucket, and the sum over all that proves a push. Nothing here needs torch."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

InFlight = Literal["finish", "keep", "recompute"]
"""The fate of running responses at a push, see Sampler.start_weight_update()."""

MEET_S = 60.0
"""Seconds at most within which the workers and the learner of a push meet."""

Told = Mapping[str, object]
"""What a worker is told of a push, or of a group: numbers, texts and lists, since classes do not survive the way into
the engine's process."""


@dataclass(frozen=True)
class TensorLayout:
    """Where one tensor lies in a buffer."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


@dataclass(frozen=True)
class Pushed:
    """The state of a generator after a push."""

    policy_version: int
    checksum: str
    names: frozenset[str]


def combine(sums: Mapping[str, int]) -> str:
    """One digest for an entire model: of the names and checksums of its tensors, in name order."""
    return hashlib.blake2b("".join(f"{n}={sums[n]};" for n in sorted(sums)).encode(), digest_size=16).hexdigest()
