import json
import statistics

import numpy as np
import pytest

from mmrlhf_ray.algorithms.statistics import RunningMoments
from tests.golden.support import assert_caught, mutant

PARTS = [[1.0, 2.0, 4.0], [], [-3.0], [100.0, 101.0, 99.5, 100.5], [7.0, 7.0]]


def check(update):
    moments, seen = RunningMoments(), []
    for part in PARTS:
        moments, seen = update(moments, part), seen + part
        assert moments.count == len(seen)
        assert moments.mean == pytest.approx(statistics.fmean(seen))
        if len(seen) > 1:
            assert moments.std == pytest.approx(statistics.stdev(seen))


def test_parts_give_the_moments_of_the_whole():
    check(RunningMoments.update)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("mean - self.mean", "self.mean - mean"),
        ("+ delta * delta * self.count * x.size / count", ""),
        ("self.m2 + float", "float"),
        ("self.count * x.size / count", "self.count / count"),
        ("delta * x.size / count, m2", "delta / count, m2"),
        ("np.square(x - mean)", "np.square(x)"),
    ],
)
def test_broken_updates_are_caught(old, new):
    assert_caught(check, mutant(RunningMoments.update, old, new))


def test_a_far_away_mean_does_not_swallow_the_spread():
    x = 1e9 + np.array([0.0, 1.0, 2.0, 3.0])
    moments = RunningMoments().update(x[:1]).update(x[1:])
    assert moments.std == pytest.approx(statistics.stdev([0, 1, 2, 3]))


def test_normalise_by_hand():
    # Mean 4, unbiased variance (9 + 1 + 16) / 2 = 13.
    moments = RunningMoments().update([1.0, 3.0, 8.0])
    assert moments.normalise([4.0, 17.0]).tolist() == pytest.approx([0.0, 13**0.5])


@pytest.mark.parametrize("seen", [[], [2.0], [2.0, 2.0, 2.0]])
def test_without_a_spread_only_the_mean_is_taken_off(seen):
    moments = RunningMoments().update(seen)
    assert moments.std == 0
    assert moments.normalise([5.0]).tolist() == [5.0 - (2.0 if seen else 0.0)]


def test_an_outlier_that_was_counted_stays_bounded():
    values = [0.0] * 99 + [1e6]
    assert abs(RunningMoments().update(values).normalise(values)).max() <= 10


@pytest.mark.parametrize("values", [[1.0, float("nan")], [float("inf")], [[1.0]]])
def test_what_is_not_finite_or_flat_is_refused(values):
    with pytest.raises(ValueError, match="flat list of finite numbers"):
        RunningMoments().update(values)
    with pytest.raises(ValueError, match="flat list of finite numbers"):
        RunningMoments().normalise(values)


def test_round_trip_through_json():
    moments = RunningMoments().update([1.0, 2.5])
    assert RunningMoments.from_dict(json.loads(json.dumps(moments.to_dict()))) == moments
