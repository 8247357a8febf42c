"""The loop's configuration: what contradicts itself is refused before anything starts, with the key to change."""

import typing

import pytest
from pydantic import ValidationError

from mmrlhf_ray.config import EvaluateConfig, IterateConfig, load_config, save_config
from mmrlhf_ray.config.iterate import AskSection
from mmrlhf_ray.errors import ConfigError
from mmrlhf_ray.feedback.labels.selection import SELECTIONS
from tests.unit.pipelines.loop import loop_config

PPO = {"steps": 2}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"feedback": {}}, "exactly one of url and serve"),
        ({"feedback": {"serve": {}, "url": "http://x"}}, "exactly one of url and serve"),
        ({"feedback": {"serve": {"data_dir": "here"}}}, "data_dir is set by the loop"),
        ({"feedback": {"serve": {"prot": 1}}}, "prot: no such key; the nearest is port"),
        ({"train": {}}, "exactly one of ppo and preference"),
        ({"train": {"ppo": PPO, "preference": {"epochs": 1}}}, "exactly one of ppo and preference"),
        ({"train": {"ppo": PPO | {"policy": {"path": "x"}}}}, "policy is set by the loop"),
        ({"train": {"ppo": PPO | {"algorithm": {"kl": 1}}}}, "algorithm.kl: no such key; the nearest is algorithm.kl_"),
        ({"train": {"ppo": {"steps": "2"}}}, "steps: must be an integer, got \"2\""),
        ({"train": {"preference": {}}}, "give exactly one of epochs and steps"),
        ({"train": {"preference": {"epochs": 1}, "uncertainty_coef": 1.0}}, "uncertainty_coef belongs to ppo"),
        ({"reward_model": {"job": {"epochs": 1, "model": {"path": "x"}}}}, "model is set by the loop"),
        ({"ask": {"selection": "disagreement"}, "reward_model": {"job": {"epochs": 1}}}, "ensemble to 2 or more"),
        ({"annotators": {"module": "m", "count": 2}}, "annotators.count=2 is less than ask.overlap=3"),
        ({"ask": {"arena": True}}, "feedback.serve starts has no arena"),
        ({"prompts": {"path": "p", "streaming": True}}, "prompts.streaming"),
        ({"sample": {"n_samples_per_prompt": 1}}, "greater than or equal to 2"),
    ],
)  # fmt: skip
def test_contradictions_are_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        loop_config(**changes)


def test_selections_are_those_that_there_are():
    field = AskSection.model_fields["selection"]
    assert set(typing.get_args(field.annotation)) == set(SELECTIONS)


def test_a_saved_configuration_reads_back(tmp_path):
    cfg = loop_config(ask={"selection": "disagreement"}, train={"ppo": PPO, "uncertainty_coef": 0.5})
    save_config(cfg, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml", [], IterateConfig) == cfg
    with pytest.raises(ConfigError, match="run it with `mmrlhf iterate`"):
        load_config(tmp_path / "config.yaml", [], EvaluateConfig)
