"""The annotators' joint judgement of two responses: majority, or Dawid–Skene with the reliability of each annotator."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from mmrlhf_ray.errors import DataError, needs
from mmrlhf_ray.feedback.annotations import Comparison, Unit, votes_by_unit

ConsensusMethod = Literal["majority", "dawid_skene"]

_ITERATIONS = 100
_TASK, _WORKER, _LABEL = "task", "worker", "label"  # crowd-kit's names


@dataclass(frozen=True)
class PairConsensus:
    """The joint judgement of two texts. The three shares add up to one."""

    first: float
    """Share (of votes) or probability that the first text is better."""
    second: float
    tie: float
    votes: int

    @property
    def vote(self) -> int:
        """1, −1 or 0, as in Comparison."""
        return (self.first > self.second) - (self.first < self.second)

    @property
    def margin(self) -> float:
        """How far the better text is ahead, 0 … 1."""
        return abs(self.first - self.second)


@dataclass(frozen=True)
class Reliability:
    """How good an annotator's votes are, as the others tell."""

    reliability: float
    """Probability that a vote is right, by the estimated confusion matrix and how frequent each truth is."""
    votes: int
    shared: int
    """Votes on pairs that others voted on, too; without any the figure means nothing."""


@dataclass(frozen=True)
class Consensus:
    verdicts: Mapping[Unit, PairConsensus]
    reliability: Mapping[str, Reliability]
    """By annotator_id; empty for a majority, which takes all alike."""


def consensus(comparisons: Sequence[Comparison], method: ConsensusMethod) -> Consensus:
    """Verdicts on every pair of texts. Of several votes of one annotator on one pair the last counts.

    Raises DataError where Dawid–Skene has no pair with votes of two annotators.
    """
    return _METHODS[method](votes_by_unit(comparisons))


def _majority(votes: Mapping[Unit, Mapping[str, int]]) -> Consensus:
    verdicts = {}
    for unit, cast in votes.items():
        count, n = Counter(cast.values()), len(cast)
        verdicts[unit] = PairConsensus(count[1] / n, count[-1] / n, count[0] / n, n)
    return Consensus(verdicts, {})


def _dawid_skene(votes: Mapping[Unit, Mapping[str, int]]) -> Consensus:
    """Dawid & Skene 1979, by crowd-kit."""
    if all(len(cast) < 2 for cast in votes.values()):
        raise DataError(
            "dawid_skene: no pair of responses has votes of two annotators; collect with overlap 2 or more, or use "
            "majority"
        )
    needs("feedback")
    from crowdkit.aggregation import DawidSkene

    units = list(votes)
    rows = [(number, who, vote) for number, unit in enumerate(units) for who, vote in votes[unit].items()]
    fitted = DawidSkene(n_iter=_ITERATIONS).fit(pd.DataFrame(rows, columns=[_TASK, _WORKER, _LABEL]))
    probabilities, errors = fitted.probas_, fitted.errors_
    assert probabilities is not None, "it has been fitted"
    assert errors is not None, "it has been fitted"
    assert fitted.priors_ is not None, "it has been fitted"
    by_unit = probabilities.reindex(columns=[1, -1, 0], fill_value=0.0).sort_index().to_numpy().tolist()
    verdicts = {
        unit: PairConsensus(first, second, tie, len(votes[unit]))
        for unit, (first, second, tie) in zip(units, by_unit, strict=True)
    }
    total: Counter[str] = Counter()
    shared: Counter[str] = Counter()
    for cast in votes.values():
        total.update(cast.keys())
        shared.update(cast.keys() if len(cast) > 1 else ())
    reliability = {
        who: Reliability(_accuracy(errors, fitted.priors_, who), total[who], shared[who]) for who in sorted(total)
    }
    return Consensus(verdicts, reliability)


def _accuracy(errors: pd.DataFrame, priors: "pd.Series[float]", who: str) -> float:
    """Σ over truths of P(truth) · P(the annotator says so | truth); what somebody never said counts 0."""
    said = errors.loc[who]
    return float(sum(priors[truth] * said.loc[truth, truth] for truth in priors.index if truth in said.index))


_METHODS: Mapping[ConsensusMethod, Callable[[Mapping[Unit, Mapping[str, int]]], Consensus]] = {
    "majority": _majority,
    "dawid_skene": _dawid_skene,
}
