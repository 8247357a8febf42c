"""Which pairs of segments are asked about, and how many when."""

from collections.abc import Sequence

import numpy as np

from mmrlhf_ray.behaviour.reward import RewardEnsemble
from mmrlhf_ray.behaviour.segments import Recorded, stacked
from mmrlhf_ray.config.behaviour import AskSection


def due(ask: AskSection, step: int, steps: int) -> int:
    """Pairs that should have been asked about before step `step` of `steps`, from `first` at step 0 to all of them.

    first + (pairs − first)·(1 − (1 − step/(steps − 1))²): the rate falls in a straight line to 0, since early votes
    decide where the policy goes.
    """
    done = min(1.0, step / max(steps - 1, 1))
    return ask.first + round((ask.pairs - ask.first) * (1.0 - (1.0 - done) ** 2))


def choose_pairs(
    pool: Sequence[Recorded], count: int, ask: AskSection, ensemble: RewardEnsemble | None, rng: np.random.Generator
) -> list[tuple[Recorded, Recorded]]:
    """`count` pairs of different segments, fewer where the pool has not as many; no two alike.

    ensemble: whose members disagree, measured by the variance of the probabilities they give to the first's being
    better (Christiano et al. 2017, section 2.2.4); None = random pairs, as before there are votes.
    """
    wanted = count if ensemble is None or ask.choose == "random" else count * ask.candidates
    drawn = {tuple(sorted(rng.choice(len(pool), 2, replace=False).tolist())) for _ in range(2 * wanted)}
    numbers = [(a, b) if rng.random() < 0.5 else (b, a) for a, b in sorted(drawn)]
    numbers = [numbers[place] for place in rng.permutation(len(numbers))[:wanted]]
    pairs = [(pool[a], pool[b]) for a, b in numbers]
    if ensemble is None or ask.choose == "random" or not pairs:
        return pairs[:count]
    first, second = (stacked([pair[side].segment for pair in pairs]) for side in (0, 1))
    doubt = ensemble.preferences(first, second).var(0)
    return [pairs[place] for place in np.argsort(-doubt, kind="stable")[:count]]
