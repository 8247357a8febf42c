"""Ratings of players from the outcomes of games between two of them."""

from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse.csgraph import connected_components

from mmrlhf_ray.algorithms.statistics import Interval

_MOST_STEPS = 100
_PRECISION = 1e-10
"""Of the gradient, as a share of the games."""

Matrix = NDArray[np.float64]


def bradley_terry(wins: ArrayLike, ties: ArrayLike, confidence: float = 0.95) -> list[Interval | None]:
    """The rating θ of each of M players, P(i beats j) = σ(θ_i − θ_j), in nats, mean 0 over those that have one.

    `wins` [M, M]: how often i beat j; `ties` [M, M], symmetric: how often neither won. Maximum likelihood (Bradley &
    Terry 1952, "Rank Analysis of Incomplete Block Designs"), a tie as half a win of each. Intervals are those of the
    sandwich covariance (Huber 1967; White 1982), which stays right with ties as half wins; votes count as independent.

    None for players without a finite estimate: it exists where every player has beaten every other, directly or
    through others (Ford 1957), so the largest such set is rated. Raises ValueError for counts that make no sense.
    """
    won, tied = _counts(wins, ties)
    rated = _comparable(won + tied / 2)
    found: list[Interval | None] = [None] * len(won)
    if rated.size < 2:
        return found
    inside = np.ix_(rated, rated)
    won, tied = won[inside], tied[inside]
    ratings = _most_likely(won + tied / 2)
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    half = z * np.sqrt(np.diag(_covariance(ratings, won, tied)))
    for player, rating, width in zip(rated.tolist(), ratings.tolist(), half.tolist(), strict=True):
        found[player] = Interval(rating, rating - width, rating + width)
    return found


def _counts(wins: ArrayLike, ties: ArrayLike) -> tuple[Matrix, Matrix]:
    won, tied = np.asarray(wins, np.float64), np.asarray(ties, np.float64)
    if won.ndim != 2 or won.shape[0] != won.shape[1] or tied.shape != won.shape:
        raise ValueError(f"wins and ties expect two matrices [M, M], got {won.shape} and {tied.shape}")
    if not (np.isfinite(won).all() and np.isfinite(tied).all() and (won >= 0).all() and (tied >= 0).all()):
        raise ValueError("wins and ties expect counts of 0 or more")
    if not np.array_equal(tied, tied.T) or np.diag(won).any() or np.diag(tied).any():
        raise ValueError("ties expects a symmetric matrix, and no player meets itself")
    return won, tied


def _comparable(scores: Matrix) -> NDArray[np.int64]:
    """Players of the largest set in which each has scored against each other, directly or through others."""
    _, sets = connected_components(scores > 0, connection="strong")
    return np.flatnonzero(sets == np.bincount(sets).argmax())


def _most_likely(scores: Matrix) -> Matrix:
    """Newton's method; a step that does not raise the likelihood is halved until it does."""
    ratings = np.zeros(len(scores))
    for _ in range(_MOST_STEPS):
        share, weight = _expected(ratings, scores)
        gradient = (scores - (scores + scores.T) * share).sum(axis=1)
        if np.abs(gradient).max() <= _PRECISION * scores.sum():
            return ratings
        step = np.linalg.pinv(_laplacian(weight)) @ gradient
        while _log_likelihood(ratings + step, scores) < _log_likelihood(ratings, scores) and np.abs(step).max() > 1e-12:
            step = step / 2
        ratings = ratings + step
    raise ArithmeticError(f"Bradley-Terry did not converge within {_MOST_STEPS} steps on {scores.tolist()}")


def _covariance(ratings: Matrix, won: Matrix, tied: Matrix) -> Matrix:
    share, weight = _expected(ratings, won + tied / 2)
    bread = np.linalg.pinv(_laplacian(weight))
    squared = won * (1 - share) ** 2 + won.T * share**2 + tied * (0.5 - share) ** 2
    return bread @ _laplacian(squared) @ bread


def _expected(ratings: Matrix, scores: Matrix) -> tuple[Matrix, Matrix]:
    """(P(i beats j), games of i and j times its variance), each [M, M]."""
    share = 1 / (1 + np.exp(ratings[None, :] - ratings[:, None]))
    return share, (scores + scores.T) * share * (1 - share)


def _log_likelihood(ratings: Matrix, scores: Matrix) -> float:
    return -float((scores * np.logaddexp(0.0, ratings[None, :] - ratings[:, None])).sum())


def _laplacian(weight: Matrix) -> Matrix:
    """Σ over pairs of weight · (e_i − e_j)(e_i − e_j)ᵀ."""
    return np.diag(weight.sum(axis=1)) - weight
