"""The board of the arena: counted by hand, and right about simulated voters."""

import math
import random
import subprocess
import sys

import pytest

from mmrlhf_ray.feedback.arena.board import Game, board


def test_counts_by_hand() -> None:
    games = [
        *[Game("a", "b", "left")] * 3,
        *[Game("b", "a", "right")] * 2,
        Game("b", "a", "left"),
        Game("a", "b", "tie"),
        Game("b", "a", "both_bad"),
        Game("c", "a", "right"),
    ]
    found = board(games, ["a", "b", "c", "d"])
    a, b, c, d = found.standings
    assert [standing.name for standing in found.standings] == ["a", "b", "c", "d"]
    assert (a.all.wins, a.all.ties, a.all.losses) == (6, 2, 1)
    assert (b.all.wins, b.all.ties, b.all.losses) == (1, 2, 5)
    assert (a.against[0], a.against[1].wins, a.against[2].wins, a.against[3].share) == (None, 5, 1, None)
    assert a.against[1].share.estimate == pytest.approx(6 / 8)
    assert (a.both_bad, b.both_bad, c.both_bad) == (1, 1, 0)
    assert a.rating.estimate - b.rating.estimate == pytest.approx(400 * math.log10(3))
    assert (c.rating, d.rating, d.all.share) == (None, None, None)
    assert (found.votes, found.left_votes, found.left.estimate) == (9, 7, 4 / 7)


def test_without_votes_there_is_nothing_to_say() -> None:
    found = board([], ["a", "b"])
    assert (found.votes, found.left) == (0, None)
    assert [standing.rating for standing in found.standings] == [None, None]


def test_simulated_voters_who_lean_to_the_left_are_found_out() -> None:
    rng = random.Random(1)
    games = [Game(*rng.sample(["a", "b", "c"], 2), "left" if rng.random() < 0.7 else "right") for _ in range(300)]
    assert board(games, []).left.low > 0.5


def test_the_ratings_do_without_torch() -> None:
    code = (
        "import sys; from mmrlhf_ray.feedback.arena.board import Game, board; "
        "from mmrlhf_ray.feedback.labels.bias import leans; "
        "found = board([Game('a', 'b', 'left'), Game('b', 'a', 'left')], ['a', 'b']); "
        "print(leans(found.left), found.standings[0].rating is not None, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == ["False", "True", "False"]
