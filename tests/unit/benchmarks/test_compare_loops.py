"""Finished loops side by side."""

import pytest

from benchmarks.compare_loops import Curve, compare, markdown, votes_to_reach


def curve(selection: str, seed: int, *primary: float) -> Curve:
    last = {f"p{i}": primary[-1] for i in range(20)}
    return Curve(selection, seed, tuple(100 * n for n in range(len(primary))), primary, last)


@pytest.mark.parametrize(
    ("target", "expected"), [(1.0, 0.0), (1.1, 50.0), (1.2, 100.0), (1.25, 250.0), (1.3, 300.0), (1.31, None)]
)
def test_votes_to_a_reward_by_hand(target: float, expected: float | None) -> None:
    reached = votes_to_reach(curve("random", 0, 1.0, 1.2, 1.2, 1.3), target)
    assert reached == (None if expected is None else pytest.approx(expected))


def test_each_seed_is_compared_with_its_own_random_run() -> None:
    runs = [curve("margin", 1, 1.0, 1.1, 1.2), curve("random", 1, 1.0, 1.2, 1.4), curve("margin", 0, 1.0, 1.4, 1.4)]
    random, margin = compare([*runs, curve("random", 0, 1.0, 1.1, 1.2)])
    assert (random.selection, random.primary) == ("random", pytest.approx((1.0, 1.15, 1.3)))
    assert [interval.estimate for interval in margin.beside] == pytest.approx([0.2, -0.2])
    assert margin.votes == (pytest.approx(50.0), None)
    table = markdown([random, margin])
    assert table.splitlines()[2] == "| `random` | 2 | 1.000 | 1.150 (100) | 1.300 (200) | – | – |"
    assert table.splitlines()[3] == (
        "| `margin` | 2 | 1.000 | 1.250 (100) | 1.300 (200) "
        "| +0.200 [+0.200, +0.200]; -0.200 [-0.200, -0.200] | 50; never |"
    )


def test_runs_that_do_not_compare_are_refused() -> None:
    with pytest.raises(ValueError, match="margin, seed 1: no random run has this seed"):
        compare([curve("random", 0, 1.0, 1.1), curve("margin", 1, 1.0, 1.1)])
    with pytest.raises(ValueError, match="margin, seed 0: 2 rounds, random 1"):
        compare([curve("random", 0, 1.0, 1.1), curve("margin", 0, 1.0, 1.1, 1.2)])
