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


@pytest.mark.parametrize(
    ("lora", "parts", "message"),
    [
        ({}, {"vision_tower": {"train": False}}, r"parts.vision_tower.train=false: with lora, whatever is not in"),
        ({}, {"projector": {"lr": 0.1}}, r"parts.projector.lr=0.1 has no effect: with lora this part is frozen"),
        ({"parts": ["vision_tower"]}, {"language_model": {"lr": 0.1}}, r"parts.language_model.lr=0.1 has no effect"),
        ({"also_train": ["language_model", "projector"]}, {}, r"language_model in both parts and also_train"),
        ({"parts": []}, {}, "at least 1 item"),
    ],
)
def test_an_adapter_and_parts_that_contradict_it(lora: dict, parts: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LearnerConfig.model_validate({"lora": lora, "parts": parts})
    with pytest.raises(ConfigError, match=message):
        load_config(None, [*SFT, f"learner.lora={lora}", f"learner.parts={parts}"], SFTConfig)


@pytest.mark.parametrize(
    ("lora", "sent", "keeps_start"),
    [
        (None, False, False),
        ({}, True, True),
        ({"parts": ["vision_tower", "language_model"]}, False, True),
        ({"also_train": ["projector"]}, False, False),
    ],
)
def test_what_becomes_of_an_adapter(lora: dict | None, sent: bool, keeps_start: bool) -> None:
    learner = LearnerConfig.model_validate({"lora": lora, "parts": {"language_model": {"lr": 0.1}}})
    assert learner.keeps_start is keeps_start
    assert learner.sent_adapter == (learner.lora if sent else None)


def test_an_unknown_part_is_named() -> None:
    with pytest.raises(ConfigError, match=r"learner\.parts\.vision .*no such key"):
        load_config(None, [*SFT, "learner.parts.vision.train=false"], SFTConfig)
