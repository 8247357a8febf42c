"""Where tensors lie in a bucket, and the checksums that prove its bytes. Nothing here needs torch."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

InFlight = Literal["finish", "keep", "recompute"]
"""The fate of running responses at a push, see Sampler.start_weight_update()."""


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


def checksums(layout: Sequence[TensorLayout], payload: np.ndarray) -> dict[str, str]:
    """name → digest of the tensor's bytes."""
    return {
        item.name: hashlib.blake2b(payload[item.offset : item.offset + item.nbytes].data, digest_size=8).hexdigest()
        for item in layout
    }


def combine(sums: dict[str, str]) -> str:
    """One digest for an entire model: of names and digests in name order."""
    return hashlib.blake2b("".join(f"{n}={sums[n]};" for n in sorted(sums)).encode(), digest_size=16).hexdigest()
