"""The rule that bounds staleness, by hand and against what happens on a simulated clock."""

from dataclasses import replace

import pytest

from benchmarks.stream_simulator import MACHINES, Machine, Outcome, Simulation, Workload, simulate
from mmrlhf_ray.rollout.admission import admissible
from mmrlhf_ray.rollout.buffer import Leave

LOAD = Workload(generators=4, slots=64, n_samples=4, prompts_per_step=16, steps=24, mean=400.0, cap=4000)
MACHINE = Machine("small", train_s=20.0, push_s=2.0)


def allowed(**changes: int) -> int:
    start = {"running": 0, "accepted": 0, "version": 0, "prompts_per_step": 8, "max_staleness": 0}
    return admissible(**{**start, **changes})


def test_a_synchronous_run_asks_for_one_batch_and_then_for_the_next() -> None:
    assert allowed() == 8
    assert allowed(running=5) == 3
    assert allowed(running=5, accepted=3) == 0
    assert allowed(accepted=8) == 0, "the batch is taken, its version not pushed yet"
    assert allowed(accepted=8, version=1) == 8


def test_staleness_lets_as_many_batches_ahead() -> None:
    assert allowed(max_staleness=2) == 24
    assert allowed(max_staleness=2, running=10, accepted=6) == 8
    assert allowed(max_staleness=2, running=10, accepted=20) == 0


def test_what_leaves_is_asked_for_again_and_exactly_that() -> None:
    assert allowed(running=0, accepted=5) == 3, "three of eight were filtered"
    assert admissible(running=0, accepted=5, version=0, prompts_per_step=8, max_staleness=0, oversample=1.5) == 5
    assert admissible(running=5, accepted=5, version=0, prompts_per_step=8, max_staleness=0, oversample=1.5) == 0


def test_a_bound_of_its_own_and_the_end_of_the_run() -> None:
    assert allowed(max_staleness=2, max_running=6, running=4) == 2
    assert allowed(max_staleness=2, max_running=6, running=7) == 0
    assert allowed(max_staleness=2, version=9, accepted=72, steps=10) == 8, "a tenth batch, and no eleventh"


def test_a_run_that_goes_on_at_a_late_version_does_not_start_with_a_burst() -> None:
    """A peer's bug: after a restart at version 50 nothing was counted as accepted, and 51 batches were asked for."""
    resumed = Simulation(MACHINE, replace(LOAD, steps=60), max_staleness=1, version=50)
    next(resumed.run())
    assert resumed.outcome.most_held == 2 * LOAD.prompts_per_step


@pytest.mark.parametrize("max_staleness", [0, 1, 2, 4])
@pytest.mark.parametrize("filtered", [0.0, 0.4])
def test_nothing_older_than_allowed_is_trained_and_nothing_is_thrown_away_for_its_age(
    max_staleness: int, filtered: float
) -> None:
    run = simulate(MACHINE, replace(LOAD, filtered=filtered), max_staleness)
    assert len(run.trained) == LOAD.steps * LOAD.prompts_per_step
    assert max(run.ages) <= max_staleness
    assert run.left[Leave.STALE] == 0, "the batch waits for what would be too old for the next one"
    assert (run.left[Leave.FILTERED] > 0) == (filtered > 0)
    assert run.most_held <= (max_staleness + 1) * LOAD.prompts_per_step
    if max_staleness:
        assert max(run.ages) == max_staleness, "the bound is used"


def test_one_group_more_than_the_rule_allows_would_be_too_old() -> None:
    """By the end of version v, all batches up to v + max_staleness are drawn: another group would come after them."""
    run = simulate(MACHINE, LOAD, 1)
    for version in range(LOAD.steps - 1):
        drawn = sum(group[1] <= version for group in run.trained)
        assert drawn == (version + 2) * LOAD.prompts_per_step


def test_a_learner_that_is_slow_holds_the_generators_back() -> None:
    """Another peer's bug: a queue without bound between the two."""
    run = simulate(replace(MACHINE, train_s=1000.0), LOAD, 2)
    assert run.most_held == 3 * LOAD.prompts_per_step


def test_staleness_hides_generation_behind_learning() -> None:
    """The study's job of 7B with 8 generators, where research had 172 s a step without and 60 s at best."""
    load = Workload(generators=8, prompts_per_step=128, steps=8)
    times = [simulate(MACHINES[1], load, k).step_s for k in (0, 1, 2)]
    assert times[0] == pytest.approx(172.0, rel=0.05)
    assert times[0] / times[1] > 1.5
    assert times[2] == pytest.approx(65.0, rel=0.05), "training and push, with nothing waited for"


def test_oversampling_shortens_the_wait_for_groups_that_teach_something() -> None:
    filtering = replace(LOAD, filtered=0.5)
    plain, over = (simulate(MACHINE, filtering, 1, oversample) for oversample in (1.0, 2.0))
    assert over.step_s < plain.step_s
    assert over.most_held <= 4 * LOAD.prompts_per_step
    assert _trained_once(over)


def _trained_once(run: Outcome) -> bool:
    positions = [position for position, _, _ in run.trained]
    return len(set(positions)) == len(positions)
