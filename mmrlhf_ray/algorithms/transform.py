"""Transformations of a reward before components are mixed."""

import math


def log_sigmoid_score(score: float, around: float) -> float:
    """log σ(score − around) ≤ 0: what the score gains above `around` counts less and less, what it lacks counts in
    full, so that a policy improves its bad responses rather than its good ones.

    `around`: a score of the policy that training starts from. Sums of such components are the log-probability that a
    response is good by all of them. Source: Wang et al. 2024, "Transforming and Combining Rewards for Aligning Large
    Language Models", equation 4. NaN stays NaN.
    """
    difference = score - around
    return min(difference, 0.0) - math.log1p(math.exp(-abs(difference))) if not math.isnan(difference) else math.nan
