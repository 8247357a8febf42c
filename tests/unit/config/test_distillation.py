"""Which settings of teachers go together, and who holds them."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from mmrlhf_ray.config import PPOConfig

TEACHERS = {"teachers": [{"model": {"path": "t0"}}, {"model": {"path": "t1"}, "weight": 2.0}]}


def config(**keys: Any) -> PPOConfig:
    base = {"name": "x", "policy": {"path": "p"}, "data": {"path": "d"}, "distillation": TEACHERS}
    return PPOConfig.model_validate(base | keys)


@pytest.mark.parametrize(
    ("keys", "served"),
    [
        ({"algorithm": {"kl_coef": 0.0}}, ["t0", "t1"]),
        ({}, ["p", "t0", "t1"]),
        ({"reference": {"path": "r"}}, ["r", "t0", "t1"]),
        ({"learner": {"lora": {"rank": 8}}}, ["t0", "t1"]),
        ({"distillation": None, "reference": {"path": "r"}}, ["r"]),
        ({"distillation": None, "algorithm": {"kl_coef": 0.0}, "rewards": [
            {"name": "r", "kind": "function", "function": "format"}]}, []),
    ],
)  # fmt: skip
def test_the_reference_servers_hold_the_teachers_too(keys: dict[str, Any], served: list[str]) -> None:
    cfg = config(**keys)
    assert [Path(model.path).name for model in cfg.served.values()] == served
    assert ("reference" in cfg.roles) == bool(served)
    checked = [Path(use.config.path).name for use in cfg.models.values()]
    assert {"t0", "t1"} <= set(checked) or cfg.distillation is None


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"reference_engine": "zero3"}, "reference_engine=zero3: teachers are held by servers"),
        ({"distillation": {"teachers": []}}, "at least 1 item"),
        ({"distillation": TEACHERS | {"divergence": "both"}}, "forward"),
        ({"distillation": TEACHERS | {"coef": 0}}, "greater than 0"),
        ({"distillation": None}, "give a reward, `distillation`, or a `reference` to distil from"),
    ],
)
def test_settings_that_make_no_sense_are_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        config(**keys)
