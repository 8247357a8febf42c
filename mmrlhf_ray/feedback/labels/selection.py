"""The next questions: candidate pairs in the order in which they are worth asking about. Pure and seeded."""

import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mmrlhf_ray.errors import DataError

Floats = NDArray[np.float64]

_WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Candidates:
    """Pairs that could be asked about."""

    scores: Floats
    """[pairs, 2, members]: score of each of the two responses by each member of the reward ensemble; members may be 0
    for selections that look at no score."""
    features: Floats
    """[pairs, d]: what diversity is measured on, such as hashed_ngrams(); d may be 0 where nothing does."""

    def __post_init__(self) -> None:
        if self.scores.ndim != 3 or self.scores.shape[1] != 2:
            raise DataError(f"scores expects [pairs, 2, members], got shape {list(self.scores.shape)}")
        if self.features.ndim != 2 or len(self.features) != len(self.scores):
            raise DataError(f"features expects [{len(self.scores)}, d], got shape {list(self.features.shape)}")
        for name, values in (("scores", self.scores), ("features", self.features)):
            if not np.isfinite(values).all():
                raise DataError(f"{name} expects finite numbers; score again, or leave such pairs out")

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def differences(self) -> Floats:
        """Score of the first minus that of the second, [pairs, members]."""
        return self.scores[:, 0] - self.scores[:, 1]


class Selection(Protocol):
    """A way to choose what is asked next."""

    def order(self, candidates: Candidates, count: int, rng: np.random.Generator) -> list[int]:
        """`count` different pairs (all, if there are fewer), the most worthwhile first. Raises DataError."""
        ...


@dataclass(frozen=True)
class Random:
    """Every pair alike: the baseline."""

    def order(self, candidates: Candidates, count: int, rng: np.random.Generator) -> list[int]:
        return rng.permutation(len(candidates))[:count].tolist()


@dataclass(frozen=True)
class Disagreement:
    """Pairs on which the members of the ensemble differ most: by the standard deviation of the score difference."""

    def order(self, candidates: Candidates, count: int, rng: np.random.Generator) -> list[int]:
        return _falling(_needs_ensemble(candidates).std(axis=1), count, rng)


@dataclass(frozen=True)
class PredictedVotes:
    """Pairs for which the members predict the most different votes: by the standard deviation of σ(score difference).

    Unlike Disagreement it passes over pairs that all members are sure of, however far apart they are. Source:
    Christiano et al. 2017, "Deep reinforcement learning from human preferences", section 2.2.4.
    """

    def order(self, candidates: Candidates, count: int, rng: np.random.Generator) -> list[int]:
        predicted = (1 + np.tanh(_needs_ensemble(candidates) / 2)) / 2
        return _falling(predicted.std(axis=1), count, rng)


def _needs_ensemble(candidates: Candidates) -> Floats:
    """Score differences. Raises DataError without two members."""
    members = candidates.scores.shape[2]
    if members < 2:
        raise DataError(
            f"disagreement needs the scores of two or more members, got {members}; train an ensemble (`ensemble` "
            "in the reward model's configuration), or choose margin"
        )
    return candidates.differences


@dataclass(frozen=True)
class SmallMargin:
    """Pairs whose mean scores are closest."""

    def order(self, candidates: Candidates, count: int, rng: np.random.Generator) -> list[int]:
        if not candidates.scores.shape[2]:
            raise DataError("margin needs scores, got none; score the candidates with a reward model first")
        return _falling(-np.abs(candidates.differences.mean(axis=1)), count, rng)


@dataclass(frozen=True)
class Diversity:
    """Each pair as far as can be from those chosen before (farthest first, the greedy k-centre of Gonzalez 1985).

    `start`: features of what was asked earlier, [n, d], which counts as chosen.
    """

    start: Floats | None = None

    def order(self, candidates: Candidates, count: int, rng: np.random.Generator) -> list[int]:
        if not candidates.features.shape[1]:
            raise DataError("diversity needs features, got none; give hashed_ngrams() of the candidates")
        return farthest_first(candidates.features, count, rng, self.start)


@dataclass(frozen=True)
class Shortlist:
    """`then`, among the `factor` · count pairs that `first` puts in front: such as the most diverse of the disputed."""

    first: Selection
    then: Selection
    factor: float = 4.0

    def order(self, candidates: Candidates, count: int, rng: np.random.Generator) -> list[int]:
        short = self.first.order(candidates, int(np.ceil(self.factor * count)), rng)
        among = Candidates(candidates.scores[short], candidates.features[short])
        return [short[place] for place in self.then.order(among, count, rng)]


@dataclass(frozen=True)
class Mixture:
    """Each next pair from one of several selections, drawn by weight: such as half disputed pairs, half random ones."""

    parts: tuple[tuple[Selection, float], ...]
    """(selection, weight > 0)."""

    def order(self, candidates: Candidates, count: int, rng: np.random.Generator) -> list[int]:
        weights = np.array([weight for _, weight in self.parts])
        if not len(weights) or not (weights > 0).all():
            raise DataError(f"a mixture expects positive weights, got {weights.tolist()}")
        # Each must be able to go on when others have taken what it would choose.
        queues = [iter(part.order(candidates, len(candidates), rng)) for part, _ in self.parts]
        chosen: dict[int, None] = {}
        while len(chosen) < min(count, len(candidates)):
            queue = queues[rng.choice(len(queues), p=weights / weights.sum())]
            chosen[next(pair for pair in queue if pair not in chosen)] = None
        return list(chosen)


SELECTIONS: Mapping[str, Selection] = {
    "random": Random(),
    "disagreement": Disagreement(),
    "disagreement_votes": PredictedVotes(),
    "margin": SmallMargin(),
    "diversity": Diversity(),
    "disagreement_diversity": Shortlist(PredictedVotes(), Diversity()),
    "disagreement_random": Mixture(((PredictedVotes(), 0.5), (Random(), 0.5))),
}
"""Selections by name, as configurations call them."""


def selection_named(name: str) -> Selection:
    """Raises DataError naming the selections that there are."""
    if name not in SELECTIONS:
        raise DataError(f"selection {name!r} is unknown; expected one of {', '.join(SELECTIONS)}")
    return SELECTIONS[name]


def _falling(values: Floats, count: int, rng: np.random.Generator) -> list[int]:
    """Places of the greatest values; equal ones in random order, as their own says something about their origin."""
    shuffled = rng.permutation(len(values))
    return shuffled[np.argsort(-values[shuffled], kind="stable")][:count].tolist()


def farthest_first(features: Floats, count: int, rng: np.random.Generator, start: Floats | None = None) -> list[int]:
    """Rows of features [n, d], each the farthest (Euclidean) from `start` and all before it; the first at random."""
    size = len(features)
    count = min(count, size)
    nearest = np.full(size, np.inf)
    for row in () if start is None else start:
        nearest = np.minimum(nearest, ((features - row) ** 2).sum(axis=1))
    chosen: list[int] = []
    ties = rng.permutation(size)  # where several are as far, and at the very start
    for _ in range(count):
        place = int(ties[np.argmax(nearest[ties])])
        chosen.append(place)
        nearest = np.minimum(nearest, ((features - features[place]) ** 2).sum(axis=1))
        nearest[chosen] = -1.0
    return chosen


def hashed_ngrams(texts: Sequence[str], size: int = 256, longest: int = 2) -> Floats:
    """Counts of word n-grams up to `longest`, hashed into `size` columns with signs, rows of length 1; [texts, size].

    The same in every process and on every machine. Source: Weinberger et al. 2009, "Feature hashing".
    """
    counts = np.zeros((len(texts), size))
    for row, text in enumerate(texts):
        words = _WORD.findall(text.lower())
        for n in range(1, longest + 1):
            for first in range(len(words) - n + 1):
                code = zlib.crc32(" ".join(words[first : first + n]).encode())
                counts[row, code % size] += 1 if code & 0x80000000 else -1
    lengths = np.linalg.norm(counts, axis=1, keepdims=True)
    return counts / np.where(lengths > 0, lengths, 1)
