"""Discrete jobs: keys that do not go together, and messages that name the key as the file has it."""

from pathlib import Path
from typing import Any

import pytest

from mmrlhf_ray.config import DiscreteConfig, dotted_keys, load_config, read_job_kind, save_config
from mmrlhf_ray.errors import ConfigError

DATA = "{path: a}"
JOB = f"""\
job: discrete
name: x
tasks:
  digit: {{kind: decide, train: {DATA}, heldout: {DATA}, classes: ["0", "1"]}}
observation:
  modalities:
    image: {{kind: image}}
    tone: {{kind: audio, seconds: 0.4}}
algorithm: {{kind: dqn}}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(JOB)
    return path


def load(file: Path, *overrides: str) -> DiscreteConfig:
    return load_config(file, overrides, DiscreteConfig)


def test_saved_and_read_again(file, tmp_path):
    cfg = load(file, "algorithm.double=false", "observation.modalities.tone.encoder={kind: lstm}")
    save_config(cfg, tmp_path / "config.yaml")
    assert load(tmp_path / "config.yaml") == cfg
    assert read_job_kind(tmp_path / "config.yaml").config is DiscreteConfig


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("algorithm.doubel=true", "algorithm.doubel .*no such key; the nearest is algorithm.double"),
        ("algorithm.ppo_epochs=3", "algorithm.ppo_epochs .*belongs to another `kind`"),
        ("algorithm.kind=sarsa", "algorithm .*`kind` must be one of 'dqn', 'ppo', .* got sarsa"),
        ("algorithm.batch_size=many", r"algorithm.batch_size .*must be an integer, got \"many\""),
        ("observation.modalities.image.hight=4", "nearest is observation.modalities.image.height"),
        ("observation.modalities.image.height=0", r"observation.modalities.image.height \(.*must be greater than 0"),
        ("observation.modalities.tone.encoder={kind: cnn, chanels: [1]}", "tone.encoder.chanels .*encoder.channels"),
        ("tasks.digit.classes=[a]", "tasks.digit.classes .*must have at least 2 items"),
        ("tasks.digit.classes=[a, a]", r"classes must differ"),
        ("tasks.Digit={}", "tasks.Digit"),
        ("observation.modalities.task={kind: image}", "observation.modalities.task: the name is taken"),
        ("sequential.first=video", "sequential.first=video must be one of observation.modalities: image, tone"),
        ("fusion={kind: attention, width: 30}", "fusion.width=30 must be a multiple of fusion.heads=4"),
        ("reward.labels=0", "the reward is empty"),
        ("reward={reward_model: {model: {path: a}, response: it}}", "must contain {}"),
        ("human_loss.coef=1", "human_loss joins the loss of algorithm.kind=clone"),
        ("tasks.digit.demonstrations.path=a", "tasks.digit.demonstrations are for algorithm.kind=clone"),
        ("tasks.digit.train.streaming=true", "tasks.digit.train.streaming"),
        ("sweep.parameters={algorithm.lr: {low: 0, high: 1, log: true}}", "expected low below high"),
        ("observation.drop=1", "observation.drop .*must be less than 1"),
    ],
)
def test_mistakes_are_named(file, override, message):
    with pytest.raises(ConfigError, match=message):
        load(file, override)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["algorithm={kind: clone}", "sequential.first=image"], "none of its rows asks"),
        (["algorithm={kind: clone}", "reward.labels=2"], "has no reward"),
        (["algorithm={kind: dqn}", "reward.cost.bound=0.1"], "reward.cost: its multiplier moves"),
        ([f"tasks.place={{kind: locate, modality: tone, train: {DATA}, heldout: {DATA}}}"], "must be an image"),
        (
            [f"tasks.place={{kind: locate, train: {DATA}, heldout: {DATA}}}", "sequential.first=image"],
            "sequential is for one task",
        ),
    ],
)
def test_contradictions_are_named(file, keys, message):
    with pytest.raises(ConfigError, match=message):
        load(file, *keys)


def test_asking_needs_something_to_ask_for(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text(JOB.replace("    tone: {kind: audio, seconds: 0.4}\n", "") + "sequential: {first: image}\n")
    with pytest.raises(ConfigError, match="sequential needs a second modality"):
        load(path)


def test_requests_come_after_the_decisions(file):
    assert load(file).ask_actions == ()
    assert load(file, "sequential.first=image").ask_actions == ("image", "tone")


def test_dotted_keys_reach_into_every_kind_and_under_names_of_the_users():
    keys: Any = list(dotted_keys(DiscreteConfig))
    assert len(keys) == len(set(keys))
    wanted = {"algorithm.double", "algorithm.ppo_epochs", "tasks.*.grid.rows", "observation.modalities.*.encoder.path"}
    assert wanted <= set(keys)
