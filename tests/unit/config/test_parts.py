"""Parts of a model in a configuration."""

import pytest

from mmrlhf_ray.config import LearnerConfig, SFTConfig, load_config
from mmrlhf_ray.errors import ConfigError

SFT = ["name=x", "model.path=m", "data.path=d", "steps=1"]


def test_parts_are_read() -> None:
    cfg = load_config(None, [*SFT, "parts.vision_tower.train=false", "parts.projector.lr=0.01"], SFTConfig)
    assert not cfg.parts.vision_tower.train
    assert cfg.parts.projector.lr == 0.01
    assert cfg.parts.language_model.train
    assert cfg.parts.language_model.lr is None


@pytest.mark.parametrize("part", [{"vision_tower": {"train": False}}, {"projector": {"lr": 0.1}}])
def test_lora_and_parts_exclude_each_other(part: dict) -> None:
    words = "lora freezes all weights of the model; leave either lora or parts out"
    with pytest.raises(ValueError, match=words):
        LearnerConfig.model_validate({"lora": {}, "parts": part})
    with pytest.raises(ConfigError, match=words):
        load_config(None, [*SFT, "lora={}", f"parts={part}"], SFTConfig)


def test_an_unknown_part_is_named() -> None:
    with pytest.raises(ConfigError, match=r"parts\.vision: .*no such key|parts\.vision .*no such key"):
        load_config(None, [*SFT, "parts.vision.train=false"], SFTConfig)
