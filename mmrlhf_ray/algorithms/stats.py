"""Adding up the statistics that losses return.

A loss returns a dict of detached scalar tensors: sums over the tokens (or pairs) of its micro-batch, and the
count they are over. Keys that end in `_max` hold maxima. So micro-batches and ranks can be combined exactly.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

MAX_SUFFIX = "_max"

Stats = dict[str, Tensor]


def merge_stats(parts: Iterable[Mapping[str, Tensor]]) -> Stats:
    """Combine the statistics of several micro-batches or ranks: maxima by maximum, all else by sum."""
    merged: Stats = {}
    for part in parts:
        for key, value in part.items():
            if key not in merged:
                merged[key] = value
            elif key.endswith(MAX_SUFFIX):
                merged[key] = torch.maximum(merged[key], value)
            else:
                merged[key] = merged[key] + value
    return merged


def mean_stats(stats: Mapping[str, Tensor], count: str) -> dict[str, float]:
    """Sums divided by `stats[count]`; maxima and the count itself as they are.

    Raises ValueError when the count is missing or zero.
    """
    total = float(stats[count]) if count in stats else 0.0
    if total <= 0:
        raise ValueError(f"stats[{count!r}] expects a positive count, got {stats.get(count)}")
    return {
        key: float(value) if key == count or key.endswith(MAX_SUFFIX) else float(value) / total
        for key, value in stats.items()
    }
