"""How far two judges put the same responses in the same order."""

import math
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike


def order_agreement(one: ArrayLike, other: ArrayLike, groups: ArrayLike) -> float:
    """Share of the pairs of one group that both scores [N] put in the same order, in [0, 1]; groups [N] says which
    responses answer one prompt. A pair that either cannot tell apart counts one half, and NaN scores make no pair.

    (1 + τ) / 2 with Kendall's τ_a within groups (Kendall 1938, "A New Measure of Rank Correlation"). 0.5 is chance. NaN
    without any pair. Raises ValueError where shapes differ.
    """
    a, b, owners = np.asarray(one, np.float64), np.asarray(other, np.float64), np.asarray(groups)
    if a.ndim != 1 or a.shape != b.shape or owners.shape != a.shape:
        raise ValueError(f"one, other and groups expect one shape [N], got {a.shape}, {b.shape}, {owners.shape}")
    known = np.isfinite(a) & np.isfinite(b)
    signs: list[float] = []
    for group in np.unique(owners[known]):
        rows = np.flatnonzero(known & (owners == group)).tolist()
        signs += [float(np.sign(a[i] - a[j]) * np.sign(b[i] - b[j])) for i, j in combinations(rows, 2)]
    return 0.5 * (1.0 + sum(signs) / len(signs)) if signs else math.nan
