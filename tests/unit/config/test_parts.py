"""Parts of a model in a configuration."""

import pytest

from mmrlhf_ray.config import LearnerConfig, SFTConfig, load_config
from mmrlhf_ray.errors import ConfigError

SFT = ["name=x", "model.path=m", "data.path=d", "steps=1"]


def test_parts_are_read() -> None:
    given = ["learner.parts.vision_tower.train=false", "learner.parts.projector.lr=0.01"]
    parts = load_config(None, [*SFT, *given], SFTConfig).learner.parts
    assert not parts.vision_tower.train
    assert parts.projector.lr == 0.01
    assert parts.language_model.train
    assert parts.language_model.lr is None


@pytest.mark.parametrize("part", [{"vision_tower": {"train": False}}, {"projector": {"lr": 0.1}}])
def test_lora_and_parts_exclude_each_other(part: dict) -> None:
    words = "lora freezes all weights of the model; leave either lora or parts out"
    with pytest.raises(ValueError, match=words):
        LearnerConfig.model_validate({"lora": {}, "parts": part})
    with pytest.raises(ConfigError, match=words):
        load_config(None, [*SFT, "learner.lora={}", f"learner.parts={part}"], SFTConfig)


def test_an_unknown_part_is_named() -> None:
    with pytest.raises(ConfigError, match=r"learner\.parts\.vision .*no such key"):
        load_config(None, [*SFT, "learner.parts.vision.train=false"], SFTConfig)
