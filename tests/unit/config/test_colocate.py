"""Roles that share devices: what a placement of them may say."""

from typing import Any

import pytest
from pydantic import ValidationError

from mmrlhf_ray.config import EvaluateConfig, PPOConfig

ON_ONE = {"num_gpus": 1.0, "replicas": 2}
BASE: dict[str, Any] = {
    "policy": {"path": "/models/any"},
    "rewards": [{"name": "good", "kind": "function", "function": "mmrlhf_ray.rewards.text:length"}],
    "data": {"path": "/data/any.jsonl"},
    "name": "any",
}


def config(colocate: list[list[str]], placement: dict[str, Any] | None = None, **changes: Any) -> PPOConfig:
    placed = {"generator": ON_ONE, "policy": ON_ONE, "critic": ON_ONE, "reference": ON_ONE} | (placement or {})
    return PPOConfig.model_validate(BASE | {"placement": {**placed, "colocate": colocate}} | changes)


def test_roles_that_take_turns() -> None:
    cfg = config([["generator", "policy"], ["critic", "reference"]])
    assert cfg.placement.sharing("policy") == ("generator", "policy")
    assert cfg.placement.sharing("encoder") == ("encoder",)


@pytest.mark.parametrize(
    ("colocate", "placement", "changes", "reason"),
    [
        ([["policy"]], {}, {}, "shares with nobody"),
        ([["policy", "critic"], ["generator", "policy"]], {}, {}, "policy is named twice"),
        ([["policy", "encoder"]], {}, {}, "Input should be"),
        ([["policy", "scorer"]], {"scorer": ON_ONE}, {}, "names scorer, which this job has not"),
        (
            [["policy", "critic"]],
            {"critic": {"num_gpus": 1.0, "replicas": 3}},
            {},
            "same replicas, got policy 2, critic 3",
        ),
        ([["policy", "critic"]], {"critic": {"num_gpus": 0.5, "replicas": 2}}, {}, "same num_gpus"),
        (
            [["generator", "policy"]],
            {role: {"num_gpus": 8.0, "replicas": 2} for role in ("generator", "policy")},
            {},
            "one GPU",
        ),
        (
            [["generator", "policy"]],
            {},
            {"stream": {"max_staleness": 1}, "algorithm": {"mismatch": {"correction": "tis"}}},
            "cannot sample while others learn",
        ),
    ],
)
def test_what_cannot_take_turns_is_refused(
    colocate: list[list[str]], placement: dict[str, Any], changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ValidationError, match=reason):
        config(colocate, placement, **changes)


def test_only_online_training_has_turns() -> None:
    placement = {"generator": ON_ONE, "scorer": ON_ONE, "colocate": [["generator", "scorer"]]}
    with pytest.raises(ValidationError, match="in online training alone"):
        EvaluateConfig.model_validate(BASE | {"placement": placement})
