import numpy as np
import pytest

from benchmarks.discrete_runs import over_seeds, table


def test_the_interval_over_seeds_is_students() -> None:
    """Three values 0.90, 0.92, 0.94: standard deviation 0.02, t = 4.303 for two degrees of freedom."""
    found = over_seeds([0.90, 0.92, 0.94])
    assert found.estimate == pytest.approx(0.92)
    assert found.high - found.estimate == pytest.approx(4.302653 * 0.02 / np.sqrt(3), rel=1e-5)
    assert found.estimate - found.low == pytest.approx(found.high - found.estimate)


def test_one_seed_is_a_point() -> None:
    found = over_seeds([0.5])
    assert (found.low, found.high) == (0.5, 0.5)


def test_a_table() -> None:
    assert table(("a", "b"), [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"
