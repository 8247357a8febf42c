"""Who answers for the reference, and when no one does."""

from typing import Any

import pytest

from mmrlhf_ray.config import PPOConfig

REWARD = {"name": "r", "kind": "function", "function": "length"}
FLUENCY = {"name": "f", "kind": "fluency"}


def config(**changes: Any) -> PPOConfig:
    keys = {"name": "n", "policy": {"path": "m"}, "data": {"path": "d.jsonl"}, "rewards": [REWARD]}
    return PPOConfig.model_validate(keys | changes)


@pytest.mark.parametrize(
    ("changes", "needed"),
    [
        ({}, True),
        ({"algorithm": {"kl_coef": 0}}, False),
        ({"algorithm": {"kl_coef": 0}, "rewards": [REWARD, FLUENCY]}, True),
        ({"algorithm": {"kl_coef": 0}, "reference": {"path": "teacher"}}, True),
        ({"algorithm": {"kl_coef": 0.1, "kl_in": "loss", "kl_estimator": "k3"}}, True),
        ({"algorithm": {"kl_coef": 1}, "rewards": [], "reference": {"path": "teacher"}}, True),
    ],
)
def test_there_is_a_reference_only_where_something_uses_it(changes: dict[str, Any], needed: bool) -> None:
    cfg = config(**changes)
    assert cfg.needs_reference is needed
    assert ("reference" in cfg.roles) is needed


@pytest.mark.parametrize("kl_coef", [0.0, 0.1])
def test_a_policy_without_its_adapter_takes_the_place_of_the_role(kl_coef: float) -> None:
    cfg = config(learner={"lora": {}}, algorithm={"kl_coef": kl_coef})
    assert cfg.needs_reference is (kl_coef > 0)
    assert "reference" not in cfg.roles


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"algorithm": {"kl_coef": 0}}, "there is no reference"),
        ({"learner": {"lora": {}}}, "the policy without its adapter is the reference"),
    ],
)
def test_how_a_reference_computes_is_asked_only_where_there_is_one(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=f"reference_engine=zero3 has no effect: {why}; leave it out"):
        config(reference_engine="zero3", **changes)
    assert config(reference_engine="zero3").placement.reference.replicas == 1


def test_a_policy_of_which_more_than_an_adapter_learns_is_not_its_own_reference() -> None:
    lora = {"also_train": ["projector"]}
    assert "reference" in config(learner={"lora": lora}).roles
    assert config(learner={"lora": lora}, reference={"path": "teacher"}).reference is not None
    assert "reference" not in config(learner={"lora": {"parts": ["projector"], "target_modules": ["proj"]}}).roles
    with pytest.raises(ValueError, match="learner.lora makes the adapter-less policy the reference"):
        config(learner={"lora": {}}, reference={"path": "teacher"})
