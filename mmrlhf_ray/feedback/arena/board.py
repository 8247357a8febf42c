"""The ratings of the arena's models, from what people chose.

The algorithms are imported where they are called, as they load scipy: the server starts in a second without.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from mmrlhf_ray.algorithms.statistics import Interval

_POINTS = 400 / math.log(10)
"""In one nat: 400 points are odds of ten to one, as in Elo's scale."""
_MEAN = 1000.0


@dataclass(frozen=True)
class Game:
    """A vote on two models' answers."""

    left: str
    """Name of the model whose answer stood there."""
    right: str
    choice: str
    """left, right, tie (both good) or both_bad."""


@dataclass(frozen=True)
class Pairing:
    """One model against another."""

    wins: int
    ties: int
    losses: int
    share: "Interval | None"
    """Of the votes, a tie as half a win, with Wilson's 95 % interval; None without votes."""


@dataclass(frozen=True)
class Standing:
    """One model."""

    name: str
    rating: "Interval | None"
    """Bradley-Terry with its 95 % interval, in points around 1000; None where no finite one exists yet."""
    all: Pairing
    """Against all others."""
    against: tuple[Pairing | None, ...]
    """Against each model in the order of the board; None against itself."""
    both_bad: int
    """Votes in which it and the other were called bad."""


@dataclass(frozen=True)
class Board:
    """Of all votes."""

    votes: int
    standings: tuple[Standing, ...]
    """The best first; those without a rating last, by their share of wins."""
    left: "Interval | None"
    """Share of decided votes that the answer on the left won, 0.5 without bias; with Wilson's 95 % interval."""
    left_votes: int


def board(games: Sequence[Game], names: Sequence[str]) -> Board:
    """The board of `names` and of all models that `games` name. Both good and both bad are ties."""
    from mmrlhf_ray.algorithms.bradley_terry import bradley_terry
    from mmrlhf_ray.algorithms.statistics import wilson_interval

    models = list(dict.fromkeys([*names, *(name for game in games for name in (game.left, game.right))]))
    place = {name: number for number, name in enumerate(models)}
    wins, ties = np.zeros((len(models),) * 2, np.int64), np.zeros((len(models),) * 2, np.int64)
    bad = dict.fromkeys(models, 0)
    for game in games:
        left, right = place[game.left], place[game.right]
        if game.choice in ("left", "right"):
            winner, loser = (left, right) if game.choice == "left" else (right, left)
            wins[winner, loser] += 1
        else:
            ties[left, right] += 1
            ties[right, left] += 1
        if game.choice == "both_bad":
            bad[game.left] += 1
            bad[game.right] += 1
    ratings = [None if rating is None else _in_points(rating) for rating in bradley_terry(wins, ties)]
    totals = [_pairing(wins[i].sum(), ties[i].sum(), wins[:, i].sum()) for i in range(len(models))]
    order = sorted(range(len(models)), key=lambda i: _key(ratings[i], totals[i]))
    standings = tuple(
        Standing(
            models[i],
            ratings[i],
            totals[i],
            tuple(None if i == j else _pairing(wins[i, j], ties[i, j], wins[j, i]) for j in order),
            bad[models[i]],
        )
        for i in order
    )
    decided = [game.choice == "left" for game in games if game.choice in ("left", "right")]
    left_share = wilson_interval(sum(decided), len(decided)) if decided else None
    return Board(len(games), standings, left_share, len(decided))


def _key(rating: "Interval | None", total: Pairing) -> tuple[bool, float]:
    if rating is not None:
        return False, -rating.estimate
    return True, -(total.share.estimate if total.share is not None else 0.0)


def _pairing(wins: int, ties: int, losses: int) -> Pairing:
    from mmrlhf_ray.algorithms.statistics import wilson_interval

    wins, ties, losses = int(wins), int(ties), int(losses)
    votes = wins + ties + losses
    return Pairing(wins, ties, losses, wilson_interval(wins + ties / 2, votes) if votes else None)


def _in_points(rating: "Interval") -> "Interval":
    points = {name: _MEAN + _POINTS * value for name, value in vars(rating).items()}
    return replace(rating, **points)
