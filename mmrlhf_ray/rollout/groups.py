"""Which responses of a step can be learned from. A group is one prompt drawn once, with its samples."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from mmrlhf_ray.rollout.buffer import Leave


def group_rows(rollouts: pa.Table) -> dict[int, range]:
    """group_id → rows of a ROLLOUT table in which a group's responses come one after the other."""
    group_ids = rollouts.column("group_id").to_numpy()
    starts = np.flatnonzero(np.diff(group_ids, prepend=np.nan)).tolist()
    return {
        int(group_ids[first]): range(first, last)
        for first, last in zip(starts, [*starts[1:], len(group_ids)], strict=True)
    }


def in_company(rollouts: pa.Table, keep: Sequence[bool]) -> list[bool]:
    """Rows to keep of those that `keep` has: a response that is left alone has no group to be compared with."""
    group_ids = rollouts.column("group_id").to_pylist()
    sizes = Counter(group_id for group_id, kept in zip(group_ids, keep, strict=True) if kept)
    return [kept and sizes[group_id] > 1 for group_id, kept in zip(group_ids, keep, strict=True)]


def why_left_out(scores: Sequence[float], *, compared: bool, min_spread: float | None) -> Leave | None:
    """Why a group is not trained on, None where it is.

    scores: of those of its responses that have one. compared: they are learned from by comparison with each other.
    min_spread: the highest and the lowest must be further apart than this; None = they need not differ.
    """
    if len(scores) < (2 if compared else 1):
        return Leave.MISSING_SCORE
    if min_spread is not None and max(scores) - min(scores) <= min_spread:
        return Leave.FILTERED
    return None
