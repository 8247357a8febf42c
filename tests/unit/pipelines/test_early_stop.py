"""When a run ends because two rewards disagree, and settings that could not say so."""

import math
from typing import Any

import pytest
from pydantic import ValidationError

from mmrlhf_ray.config import PPOConfig
from mmrlhf_ray.pipelines.ppo.evaluation import _agreement, stops
from mmrlhf_ray.rewards.scores import ComponentScores

FUNCTION = {"kind": "function", "function": "length_penalty"}


def config(**changes: Any) -> PPOConfig:
    values = {
        "name": "any",
        "policy": {"path": "/models/any"},
        "rewards": [FUNCTION | {"name": "learned"}, FUNCTION | {"name": "watching", "weight": 0.0}],
        "data": {"path": "/data/any.jsonl"},
        "eval_data": {"path": "/data/other.jsonl"},
        "eval_samples_per_prompt": 4,
        "early_stop": {"rewards": ["learned", "watching"], "agreement": 0.75},
    }
    return PPOConfig.model_validate(values | changes)


def test_a_run_ends_below_the_bar_alone() -> None:
    cfg = config()
    assert stops(cfg, {"eval_agreement": 0.7})
    for metrics in ({"eval_agreement": 0.75}, {"eval_agreement": math.nan}, {}):
        assert not stops(cfg, metrics)
    assert not stops(config(early_stop=None), {"eval_agreement": 0.0})


def test_agreement_is_of_the_two_that_are_named() -> None:
    stop = config().early_stop
    assert stop is not None
    answers = {
        "watching": ComponentScores.of([3.0, 2.0, 1.0, 7.0]),
        "learned": ComponentScores((1.0, 2.0, None, 9.0), (None, None, "late", None)),
    }
    assert _agreement(stop, answers, [0, 0, 0, 1]) == 0.0
    assert _agreement(stop, answers | {"learned": answers["watching"]}, [0, 0, 0, 1]) == 1.0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"early_stop": {"rewards": ["learned", "nobody"]}}, r"expects two of \['learned', 'watching'\]"),
        ({"early_stop": {"rewards": ["learned", "learned"]}}, "expects two of"),
        ({"eval_samples_per_prompt": 1}, "eval_samples_per_prompt of 2 or more, got 1"),
        ({"eval_data": None, "eval_samples_per_prompt": 1}, "give eval_data"),
    ],
)
def test_what_could_not_be_compared_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        config(**changes)
