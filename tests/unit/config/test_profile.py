"""The key `profile`."""

import pytest
from pydantic import ValidationError

from tests.unit.tracking.runs import config


def with_profile(tmp_path, profile):
    cfg = config(tmp_path)
    return type(cfg).model_validate(cfg.model_dump() | {"profile": profile})


def test_steps_are_traced_that_are_named(tmp_path):
    cfg = with_profile(tmp_path, {"steps": [2, 4], "tool": "torch"})
    assert [step for step in range(10) if cfg.traces(step)] == [2, 4]
    assert not config(tmp_path).traces(2)


@pytest.mark.parametrize(
    ("profile", "said"),
    [
        ({"steps": []}, "at least 1 item"),
        ({"steps": [3, 10]}, r"profile.steps=\[3, 10\]: the run's steps are 0 to 9"),
        ({"steps": [-1]}, "greater than or equal to 0"),
        ({"steps": [1], "tool": "nsys"}, "'torch'"),
    ],
)
def test_what_cannot_be_traced_is_refused(tmp_path, profile, said):
    with pytest.raises(ValidationError, match=said):
        with_profile(tmp_path, profile)
