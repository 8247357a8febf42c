"""What is taken from the buffer, when, and why the rest leaves it."""

import pytest

from mmrlhf_ray.rollout.buffer import Buffer, Leave
from mmrlhf_ray.rollout.ledger import Consumed, Ledger


def filled(max_staleness: int, versions: list[int], ready: list[int]) -> tuple[Buffer[str], Ledger]:
    """A buffer of batches of two; `versions`: of each position's draw, `ready`: the positions that are."""
    ledger = Ledger(Consumed())
    buffer: Buffer[str] = Buffer(2, max_staleness, ledger)
    for version in versions:
        while buffer.version < version:
            buffer.advance()
        buffer.start(ledger.draw())
    for position in ready:
        buffer.accept(position, versions[position], f"group {position}")
    return buffer, ledger


def test_a_batch_is_whole_and_in_the_order_of_its_positions() -> None:
    buffer, ledger = filled(0, [0, 0], [1])
    assert not buffer.can_take()
    with pytest.raises(ValueError, match="no batch for version 0: 1 groups are ready"):
        buffer.take()
    buffer.accept(0, 0, "group 0")
    assert [(r.position, r.group) for r in buffer.take()] == [(0, "group 0"), (1, "group 1")]
    assert (buffer.running, buffer.ready, buffer.left) == (0, 0, {Leave.TRAINED: 2})
    assert ledger.consumed == Consumed(2)


def test_the_batch_waits_for_a_group_that_would_be_too_old_for_the_next_one() -> None:
    buffer, _ = filled(1, [0, 0, 1, 1], [0, 2, 3])
    assert not buffer.can_take(), "group 1 would be two versions old at the next batch"
    buffer.accept(1, 0, "group 1")
    assert [r.position for r in buffer.take()] == [0, 1], "the oldest first"


def test_with_room_later_a_slow_group_is_not_waited_for() -> None:
    buffer, _ = filled(2, [0, 0, 1, 1], [0, 2, 3])
    assert buffer.can_take(), "group 1 can be in the next batch"
    assert [r.position for r in buffer.take()] == [0, 2]
    buffer.advance()
    assert not buffer.can_take()


def test_a_batch_leaves_no_more_behind_than_the_next_ones_can_hold() -> None:
    """Five groups must be gone three batches later, and three of them, of version 0, two batches later."""
    buffer, _ = filled(2, [0, 0, 0, 1, 1], [0, 3, 4])
    assert [r.position for r in buffer.take()] == [0, 3], "the next batch can hold groups 1 and 2"
    buffer, _ = filled(2, [0, 0, 0, 0, 1], [0, 4])
    assert not buffer.can_take(), "the next batch cannot hold groups 1, 2 and 3"
    buffer.accept(1, 0, "group 1")
    assert [r.position for r in buffer.take()] == [0, 1]


def test_what_is_too_old_leaves_and_its_position_is_drawn_again() -> None:
    buffer, ledger = filled(0, [0, 0, 0], [0, 1, 2])
    buffer.take()
    buffer.advance()
    assert (buffer.ready, buffer.left[Leave.STALE]) == (0, 1)
    assert ledger.draw() == 2


def test_what_became_too_old_while_it_ran_is_neither_waited_for_nor_trained() -> None:
    buffer, ledger = filled(0, [0, 0, 0, 1, 1], [0, 1])
    assert not buffer.can_take(), "groups 0 and 1 are a version too old"
    buffer.accept(3, 1, "group 3")
    buffer.accept(4, 1, "group 4")
    assert [r.position for r in buffer.take()] == [3, 4]
    buffer.accept(2, 0, "group 2")
    assert (buffer.ready, buffer.left[Leave.STALE]) == (0, 3)
    assert [ledger.draw() for _ in range(3)] == [0, 1, 2]


def test_a_group_that_is_older_than_its_draw_says_is_never_trained() -> None:
    buffer, ledger = filled(1, [5, 5], [0])
    buffer.accept(1, 3, "sampled by weights that were thought to be gone")
    assert (buffer.ready, buffer.left[Leave.STALE]) == (1, 1)
    assert ledger.draw() == 1


def test_a_group_of_weights_that_are_not_there_yet_is_never_trained() -> None:
    buffer, ledger = filled(1, [5, 5], [0])
    buffer.accept(1, 6, "sampled by weights of another run")
    with pytest.raises(ValueError, match="position 1 was sampled at version 6, which is not within max_staleness=1"):
        buffer.take()
    assert set(ledger.consumed.unfinished) == {0, 1}


@pytest.mark.parametrize(
    ("why", "again"),
    [(Leave.FILTERED, 2), (Leave.MISSING_SCORE, 2), (Leave.FAILED, 0), (Leave.STALE, 0)],
)
def test_every_group_leaves_for_a_reason(why: Leave, again: int) -> None:
    buffer, ledger = filled(0, [0, 0], [])
    buffer.drop(0, why)
    assert (buffer.running, buffer.left) == (1, {why: 1})
    assert ledger.draw() == again


def test_a_position_is_in_the_buffer_once() -> None:
    buffer, _ = filled(0, [0, 0], [1])
    for position in (0, 1):
        with pytest.raises(ValueError, match=f"position {position} is in the buffer already"):
            buffer.start(position)
