"""Which responses of a step can be learned from. A group is one prompt drawn once, with its samples."""

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
import pyarrow as pa


def in_company(rollouts: pa.Table, keep: Sequence[bool]) -> list[bool]:
    """Rows to keep of those that `keep` has: a response that is left alone has no group to be compared with."""
    group_ids = rollouts.column("group_id").to_pylist()
    sizes = Counter(group_id for group_id, kept in zip(group_ids, keep, strict=True) if kept)
    return [kept and sizes[group_id] > 1 for group_id, kept in zip(group_ids, keep, strict=True)]


def informative_rows(rollouts: pa.Table, scores: Sequence[float], keep: Sequence[bool], min_spread: float) -> list[int]:
    """Rows of groups whose scores are more than `min_spread` apart; rows that `keep` leaves out stay out."""
    groups: dict[int, list[int]] = defaultdict(list)
    for row, group_id in enumerate(rollouts.column("group_id").to_pylist()):
        if keep[row]:
            groups[group_id].append(row)
    kept = [rows for rows in groups.values() if np.ptp([scores[row] for row in rows]) > min_spread]
    return sorted(row for rows in kept for row in rows)
