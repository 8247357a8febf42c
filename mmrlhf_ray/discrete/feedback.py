"""The value of decisions: the reward of every (row, decision), drawn or computed before anything is learned."""

from dataclasses import dataclass

import numpy as np

from mmrlhf_ray.config.discrete_rewards import HumanLossSection, RewardSection
from mmrlhf_ray.discrete.cases import Cases

# Streams of random numbers, so that asking for one of them does not move the others.
_HUMAN, _LABELLED, _VOTES = range(3)


@dataclass(frozen=True)
class CloningData:
    """Labels to imitate, and people's votes, on n rows."""

    cases: Cases
    imitate: np.ndarray
    """int64 [n]: the decision to imitate, −1 = the row's label is not known."""
    voted: np.ndarray
    """int64 [n]: the decision that people judged, −1 = none."""
    vote: np.ndarray
    """float32 [n]: +1 right, −1 wrong, fractions = weighted, 0 = no vote."""


def reward_table(cases: Cases, reward: RewardSection, seed: int, model_scores: np.ndarray | None = None) -> np.ndarray:
    """float32 [n, decisions]: the weighted sum of the scores, of simulated people's ±1 and of a reward model's scores.

    model_scores: [n, decisions], where `reward.reward_model` is given. Raises ValueError where it is not of that shape.
    """
    table = reward.labels * cases.scores.astype(np.float64)
    if reward.human is not None:
        human = reward.human
        table += human.weight * judged(cases, human.threshold, human.wrong, seed)
    if reward.reward_model is not None:
        if model_scores is None or model_scores.shape != cases.scores.shape:
            got = None if model_scores is None else model_scores.shape
            raise ValueError(f"model_scores must be of shape {cases.scores.shape}, got {got}")
        table += reward.reward_model.weight * model_scores
    return table.astype(np.float32)


def judged(cases: Cases, threshold: float, wrong: float, seed: int) -> np.ndarray:
    """Simulated people's word on every decision, float32 [n, decisions]: +1 from the threshold on, else −1; a share
    `wrong` of them the other way round."""
    rng = np.random.default_rng([seed, cases.task_number, _HUMAN])
    said = np.where(cases.scores >= threshold, 1.0, -1.0)
    flipped = rng.random(said.shape) < wrong
    return np.where(flipped, -said, said).astype(np.float32)


def cloning_data(cases: Cases, labelled_share: float, human: HumanLossSection | None, seed: int) -> CloningData:
    """Which labels a learner may see, and simulated votes on one decision of each row.

    Labels are those of a share of the rows, rounded up, drawn by the seed. The draw does not depend on `human`.
    """
    n = len(cases)
    chosen = np.random.default_rng([seed, cases.task_number, _LABELLED]).permutation(n)
    imitate = np.full(n, -1, np.int64)
    known = chosen[: int(np.ceil(labelled_share * n))]
    imitate[known] = cases.labels[known]
    if human is None:
        return CloningData(cases, imitate, np.full(n, -1, np.int64), np.zeros(n, np.float32))
    return CloningData(cases, imitate, *simulated_votes(cases, human, seed))


def simulated_votes(cases: Cases, human: HumanLossSection, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(voted int64 [n], vote float32 [n]) as in CloningData: ±1 for a decision of each row, best or random."""
    rng = np.random.default_rng([seed, cases.task_number, _VOTES])
    n, decisions = cases.scores.shape
    shown = np.where(rng.random(n) < human.shown_right, cases.labels, rng.integers(decisions, size=n))
    vote = np.where(cases.scores[np.arange(n), shown] >= human.threshold, 1.0, -1.0)
    vote = np.where(rng.random(n) < human.wrong, -vote, vote)
    asked = rng.random(n) < human.share
    return np.where(asked, shown, -1), np.where(asked, vote, 0.0).astype(np.float32)
