"""Events of a deployed model to weighted labels."""

import json

import pytest

from mmrlhf_ray.config.implicit import ImplicitConfig
from mmrlhf_ray.errors import DataError
from mmrlhf_ray.feedback.labels.derive import ORIGIN, derive_preferences
from mmrlhf_ray.feedback.labels.implicit import (
    ImplicitEvent,
    ObservedResponse,
    feedback_of,
    implicit_corrections,
    implicit_demonstrations,
)
from tests.unit.feedback.people import prompts

SHOWN = ObservedResponse("r1", "p", "A dog.")


def happened(*kinds, response="r1"):
    """Events one second apart; an edit as ("edit", text), dwelling as ("dwell", seconds)."""
    made = []
    for i, kind in enumerate(kinds):
        name, given = kind if isinstance(kind, tuple) else (kind, None)
        value = {} if given is None else {{"edit": "text", "dwell": "seconds"}.get(name, "x"): given}
        made.append(ImplicitEvent(f"e{i}", response, name, value, f"2026-01-01T00:00:{i:02d}+00:00"))
    return made


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        (["thumbs_up"], 1.0),
        (["thumbs_up", "regenerate", "thumbs_down"], -1.0),
        (["copy"], 0.5),
        (["copy", "copy", "copy"], 0.5),
        (["copy", ("edit", "A cat.")], 0.2),
        (["regenerate"], -0.5),
        (["regenerate", ("edit", "A cat.")], -0.8),
        (["copy", "click", ("dwell", 10), "click"], 0.7),
        ([("dwell", 9.9)], None),
        ([("edit", "A dog.")], None),
        ([], None),
    ],
)
def test_by_hand(kinds, expected):
    found = feedback_of(happened(*kinds), SHOWN.text, ImplicitConfig())
    assert found == (None if expected is None else pytest.approx(expected))


def test_without_a_thumb_it_stays_below_one():
    config = ImplicitConfig(copied=1.0, click=1.0)
    assert feedback_of(happened("copy", "click"), "x", config) == 0.8


def test_rows_say_what_they_come_from():
    responses = [SHOWN, ObservedResponse("r2", "p", "A cat."), ObservedResponse("r3", "p", "A cow.")]
    events = [*happened("copy", "click"), *happened("thumbs_down", response="r3")]
    rows = implicit_demonstrations(responses, events, prompts(), ImplicitConfig()).to_pylist()
    assert [(row["response"], row["feedback"]) for row in rows] == [("A dog.", pytest.approx(0.6)), ("A cow.", -1.0)]
    assert json.loads(rows[0]["extras"])[ORIGIN] == {
        "response_id": "r1",
        "kinds": ["implicit"],
        "events": {"e0": "copy", "e1": "click"},
    }


def test_events_that_cancel_out_are_no_demonstration():
    events = happened("copy", "regenerate")
    assert implicit_demonstrations([SHOWN], events, prompts(), ImplicitConfig()).num_rows == 0


def test_the_last_edit_is_a_correction():
    (made,) = implicit_corrections([SHOWN], happened(("edit", "A cat"), ("edit", "A cat.")))
    (row,) = derive_preferences([made], prompts()).to_pylist()
    assert (row["chosen"], row["rejected"]) == ("A cat.", "A dog.")
    assert json.loads(row["extras"])[ORIGIN]["annotation_ids"] == ["e1"]
    assert implicit_corrections([SHOWN], happened(("edit", "A dog."))) == []


@pytest.mark.parametrize(
    ("events", "message"),
    [
        (happened("wink"), "kind 'wink'"),
        (happened("copy", response="r9"), "'r9' is unknown"),
        (happened("edit"), "value.text of edit is None"),
        (happened(("dwell", True)), "value.seconds of dwell is True"),
    ],
)
def test_events_that_cannot_be_used_are_named(events, message):
    with pytest.raises(DataError, match=message):
        implicit_demonstrations([SHOWN], events, prompts(), ImplicitConfig())
    with pytest.raises(DataError, match="'q' is not among"):
        implicit_demonstrations([ObservedResponse("r1", "q", "x")], [], prompts(), ImplicitConfig())
