"""How much a prompt is worth sampling, by the share p of its responses that were solved."""

import math


def frontier_weight(rate: float) -> float:
    """4·p·(1 − p): the variance of being solved, relative to its maximum at p = 1/2.

    Source: the learnability p·(1 − p) of Foster et al., "Learning to Reason at the Frontier of Learnability", 2025.
    """
    return 4.0 * rate * (1.0 - rate)


def easy_first_weight(rate: float, progress: float, competence: float, competent_after: float) -> float:
    """1 where 1 − p ≤ c(t), else 0, with c(t) = min(1, √(t·(1 − c₀²) + c₀²)), t = progress / competent_after.

    competence: c₀, the share of failures allowed at the start. progress: share of the run that is done;
    competent_after: the share at which everything is allowed.
    Source: Platanios et al., "Competence-based Curriculum Learning for Neural Machine Translation", 2019, with the
    share of failures as the difficulty, where they have its quantile.
    """
    start = competence**2
    allowed = min(1.0, math.sqrt(progress / competent_after * (1.0 - start) + start))
    return 1.0 if 1.0 - rate <= allowed + 1e-12 else 0.0
