"""No group is trained twice or lost, however often the driver dies."""

import json
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.stream_simulator import Machine, Simulation, Workload
from mmrlhf_ray.rollout.ledger import Consumed, Ledger

STEPS, EVERY = 200, 5
LOAD = Workload(generators=2, slots=32, n_samples=2, prompts_per_step=6, steps=STEPS, mean=300.0, cap=3000)
MACHINE = Machine("small", train_s=8.0, push_s=1.0)


def test_positions_are_drawn_in_order_and_unfinished_ones_again() -> None:
    ledger = Ledger(Consumed())
    assert [ledger.draw() for _ in range(4)] == [0, 1, 2, 3]
    ledger.settle(1)
    ledger.release(0)
    assert ledger.consumed == Consumed(4, (2, 3, 0))
    assert [ledger.draw() for _ in range(2)] == [0, 4]


def test_a_restart_draws_in_the_order_in_which_it_would_have_gone_on() -> None:
    ledger = Ledger(Consumed())
    for _ in range(5):
        ledger.draw()
    ledger.release(3)
    ledger.settle(0)
    again = Ledger(Consumed.from_dict(json.loads(json.dumps(ledger.consumed.to_dict()))))
    assert [again.draw() for _ in range(5)] == [1, 2, 4, 3, 5]


@pytest.mark.parametrize("settled", ["settle", "release"])
def test_nothing_is_used_up_twice(settled: str) -> None:
    ledger = Ledger(Consumed())
    position = ledger.draw()
    getattr(ledger, settled)(position)
    with pytest.raises(ValueError, match="position 0 is not open"):
        ledger.settle(position)
    with pytest.raises(ValueError, match="position 7 is not open"):
        ledger.release(7)


@pytest.mark.parametrize(("max_staleness", "filtered", "oversample"), [(0, 0.0, 1.0), (1, 0.3, 1.0), (2, 0.5, 1.5)])
def test_200_steps_with_random_kills_train_every_group_once(
    max_staleness: int, filtered: float, oversample: float
) -> None:
    """A killed driver goes on from its last checkpoint: what was trained after it is not in the weights."""
    load, rng = replace(LOAD, filtered=filtered), np.random.default_rng(7)
    trained: list[tuple[int, int, int]] = []
    consumed, version, kills = Consumed(), 0, 0
    while version < STEPS:
        run = Simulation(MACHINE, load, max_staleness, oversample=oversample, consumed=consumed, version=version)
        dies_after = int(rng.integers(1, 400))
        for event, _ in enumerate(run.run()):
            assert run.outcome.most_held <= oversample * (max_staleness + 1) * load.prompts_per_step
            if event == dies_after:
                kills += 1
                break
        steps = run.outcome.consumed
        last = len(steps) if version + len(steps) == STEPS else len(steps) // EVERY * EVERY
        if last:
            trained += [group for group in run.outcome.trained if group[2] < version + last]
            consumed, version = steps[last - 1], version + last
    assert kills > 10
    positions = [position for position, _, _ in trained]
    assert len(positions) == STEPS * load.prompts_per_step
    assert len(set(positions)) == len(positions), "none is trained twice"
    used_up = set(range(consumed.next)) - set(consumed.unfinished)
    left_out = used_up - set(positions)
    assert left_out == {position for position in used_up if load.is_filtered(position)}, "none is lost"
    assert all(0 <= at - drawn <= max_staleness for _, drawn, at in trained)
