"""Every row once an epoch, weights kept to within one row, and any position the same as by reading up to it."""

import itertools

import numpy as np
import pytest

from mmrlhf_ray.data.records.order import Order, interleaving
from mmrlhf_ray.errors import ConfigError

SIZES = ((3, 1, 5, 2, 4, 4, 1), (7,), (2, 2, 2))
RNG = np.random.default_rng(0)


def rows_of(sizes):
    return {(fragment, row) for fragment, count in enumerate(sizes) for row in range(count)}


@pytest.mark.parametrize("sizes", [*SIZES, (1,), (256,) * 9 + (17,)])
@pytest.mark.parametrize("window", [1, 2, 3, 100])
def test_every_epoch_of_a_source_is_every_row_once(sizes, window):
    order, count = Order((sizes,), (1.0,), seed=3, window=window), sum(sizes)
    epochs = []
    for epoch in range(3):
        places = [order.place(epoch * count + offset) for offset in range(count)]
        assert {p.epoch for p in places} == {epoch}
        epochs.append([(p.fragment, p.row) for p in places])
        assert len(epochs[-1]) == len(set(epochs[-1]))
        assert set(epochs[-1]) == rows_of(sizes)
    if count > 20:
        assert len(set(map(tuple, epochs))) == 3, "each in an order of its own"


def test_rows_of_a_window_come_together():
    order = Order(((256,) * 8,), (1.0,), seed=0, window=2)
    for window in range(4):
        places = [order.place(window * 512 + offset) for offset in range(512)]
        assert len({p.fragment for p in places}) == 2
        assert [p.row for p in places] != sorted(p.row for p in places)


@pytest.mark.parametrize(
    "weights",
    [(1.0,), (1.0, 1.0), (0.7, 0.3), (3.0, 1.0, 1.0), (0.123, 0.877), (10.0, 1.0, 1.0, 1.0, 1.0), (5, 3, 2, 2, 1, 1)],
)
def test_weights_are_met_within_one_row_at_every_point(weights):
    sizes = tuple((4, 3) for _ in weights)
    order = Order(sizes, tuple(map(float, weights)), seed=1)
    counts, total = np.zeros(len(weights)), sum(weights)
    for position in range(3000):
        counts[order.place(position).source] += 1
        wanted = np.asarray(weights) / total * (position + 1)
        assert np.abs(counts - wanted).max() < 1


def test_random_weights_are_met_too():
    for _ in range(50):
        weights = tuple(float(w) for w in RNG.integers(1, 60, RNG.integers(2, 9)))
        cycle = interleaving(weights)
        counts = np.cumsum(cycle.sources[:, None] == np.arange(len(weights)), axis=0)
        wanted = np.arange(1, len(cycle.sources) + 1)[:, None] * np.asarray(weights) / sum(weights)
        assert np.abs(counts - wanted).max() < 1
        assert (counts[-1] == cycle.counts).all()


def test_a_mixture_reads_each_source_epoch_by_epoch():
    order = Order(SIZES, (2.0, 1.0, 1.0), seed=5)
    places = [order.place(position) for position in range(400)]
    for source, sizes in enumerate(SIZES):
        own = [p for p in places if p.source == source]
        for start in range(0, len(own) - sum(sizes), sum(sizes)):
            epoch = own[start : start + sum(sizes)]
            assert {(p.fragment, p.row) for p in epoch} == rows_of(sizes)
            assert {p.epoch for p in epoch} == {start // sum(sizes)}


def test_a_position_needs_none_of_those_before():
    straight = [Order(SIZES, (2.0, 1.0, 1.5), seed=5).place(position) for position in range(1000)]
    fresh = Order(SIZES, (2.0, 1.0, 1.5), seed=5)
    for position in RNG.permutation(1000):
        assert fresh.place(int(position)) == straight[position]
    assert fresh.place(10**15) == Order(SIZES, (2.0, 1.0, 1.5), seed=5).place(10**15)


def test_other_seeds_are_other_orders():
    orders = {tuple(Order(SIZES, (1.0,) * 3, seed=seed).place(p) for p in range(30)) for seed in range(5)}
    assert len(orders) == 5


def test_without_shuffling_every_row_in_file_order():
    order = Order(SIZES, (100.0, 1.0, 1.0), seed=0, shuffle=False)
    wanted = [(s, f, r) for s, sizes in enumerate(SIZES) for f, count in enumerate(sizes) for r in range(count)]
    assert order.rows == len(wanted)
    for epoch, (number, place) in itertools.product(range(2), enumerate(wanted)):
        found = order.place(epoch * len(wanted) + number)
        assert (found.epoch, found.source, found.fragment, found.row) == (epoch, *place)


def test_weights_of_endless_digits_are_refused():
    with pytest.raises(ConfigError, match="too many digits; round them"):
        Order(SIZES[:2], (0.33333333, 0.66666667), seed=0).place(0)
