"""When a run of decisions has come to its end, as it is configured now."""

from dataclasses import asdict
from typing import Any

import pytest

from mmrlhf_ray.pipelines.discrete.job import Position, _position
from tests.unit.discrete_tiny import job

AT = Position(step=4, seconds=90.0, reward=7.0, heldout=0.8)


@pytest.mark.parametrize(
    ("keys", "last"),
    [
        ({"steps": 4}, True),
        ({"steps": 5}, False),
        ({"steps": 9, "max_minutes": 1.5}, True),
        ({"steps": 9, "max_minutes": 2.0}, False),
        ({"steps": 9, "stop_at": 0.8}, True),
        ({"steps": 9, "stop_at": 0.9}, False),
    ],
)
def test_a_finished_run_goes_on_when_it_is_given_more(keys: dict[str, Any], last: bool) -> None:
    assert AT.is_last(job(**keys)) is last
    assert _position(job(), asdict(AT)).is_last(job(**keys)) is last


def test_a_score_that_was_not_measured_stops_nothing() -> None:
    assert not Position(step=4).is_last(job(steps=9, stop_at=0.01))


def test_the_position_of_an_earlier_version_is_read() -> None:
    assert _position(job(), {"step": 2, "seconds": 1.0, "reward": 3.0, "done": True}) == Position(2, 1.0, 3.0)
    assert _position(job(), {}) == Position()
