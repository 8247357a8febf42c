"""Keys of a reward-model job that do not go together."""

from typing import Any

import pytest
from pydantic import ValidationError

from mmrlhf_ray.config import DataConfig, ModelConfig, RewardModelConfig


def config(**keys: Any) -> RewardModelConfig:
    return RewardModelConfig(name="rm", model=ModelConfig(path="m"), data=DataConfig(path="d"), steps=1, **keys)


@pytest.mark.parametrize("key", ["label_smoothing", "margin_coef", "center_coef"])
@pytest.mark.parametrize("objective", [{"objective": "plackett_luce"}, {"objective": "rating", "aspects": {"a": 1.0}}])
def test_what_belongs_to_pairs_is_refused_elsewhere(objective: dict[str, Any], key: str) -> None:
    with pytest.raises(ValidationError, match=f"{key} belongs to objective=bradley_terry"):
        config(**objective, **{key: 0.1})
    assert getattr(config(**{key: 0.1}), key) == 0.1
    assert config(**objective, ensemble=3).ensemble == 3


def test_aspects_and_ratings_belong_together() -> None:
    for keys in ({"objective": "rating"}, {"aspects": {"a": 1.0}}):
        with pytest.raises(ValidationError, match="aspects belong to objective=rating"):
            config(**keys)


def test_adversarial_rows_need_comparisons_and_all_records() -> None:
    with pytest.raises(ValidationError, match="adversarial_share=0.2: responses that are made to fool have no ratings"):
        config(objective="rating", aspects={"a": 1.0}, adversarial_share=0.2)
    assert config(adversarial_share=0.2, objective="plackett_luce").records["data"].held_for == "adversarial_share=0.2"
    assert config().records["data"].held_for is None


def test_what_is_fitted_needs_held_out_records() -> None:
    for keys in ({"debias": ("length",)}, {"score_scale": "standardise"}):
        with pytest.raises(ValidationError, match="are fitted to held-out responses; give eval_data"):
            config(**keys)
        assert config(eval_data=DataConfig(path="e"), **keys)
    with pytest.raises(ValidationError, match="score_scale=temperature makes log odds"):
        config(objective="rating", aspects={"a": 1.0}, score_scale="temperature", eval_data=DataConfig(path="e"))


def test_the_language_term_needs_whole_weights() -> None:
    with pytest.raises(ValidationError, match="lm_coef=0.1 keeps the vocabulary head whole"):
        config(lm_coef=0.1, learner={"engine": {"zero_stage": 3}})
    assert config(lm_coef=0.1, learner={"engine": {"zero_stage": 2}}).lm_coef == 0.1
