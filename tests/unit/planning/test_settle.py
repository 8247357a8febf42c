"""What a configuration leaves open is given by the model's files and by what a pass has room for."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from mmrlhf_ray.config import DataConfig, EvaluateConfig, IterateConfig, ModelConfig, PPOConfig, SFTConfig
from mmrlhf_ray.planning.auto import Machine, placed
from mmrlhf_ray.planning.devices import Nodes
from mmrlhf_ray.planning.settle import settled
from tests.unit.planning.test_plan import SHAPE

REWARD = {"name": "r", "kind": "function", "function": "length"}
ON_GPU = {"generator": {"num_gpus": 1}}
ON_CPU = {"generator": {"num_cpus": 1}}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write(tmp_path / "model", dtype="bfloat16", max_position_embeddings=32768)


def write(directory: Path, **config: Any) -> Path:
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def ppo(model: Path, **changes: Any) -> PPOConfig:
    keys: dict[str, Any] = {"name": "n", "policy": {"path": str(model)}, "data": {"path": "d"}, "rewards": [REWARD]}
    return PPOConfig.model_validate(keys | changes)


@pytest.mark.parametrize(
    ("config", "dtype"),
    [
        ({"dtype": "bfloat16"}, "bfloat16"),
        ({"torch_dtype": "bfloat16"}, "bfloat16"),
        ({"torch_dtype": "float32"}, "float32"),
        ({"dtype": "float16"}, "bfloat16"),
        ({"text_config": {"dtype": "float32"}}, "float32"),
        ({"thinker_config": {"torch_dtype": "float32"}}, "float32"),
        ({}, "bfloat16"),
    ],
)
def test_on_gpus_the_dtype_is_that_of_the_files(config: dict[str, Any], dtype: str, tmp_path: Path) -> None:
    found = settled(ppo(write(tmp_path / "m", **config), placement=ON_GPU))
    assert found.policy.dtype == found.policy.compute_dtype == dtype


def test_on_cpus_it_is_float32_and_what_is_given_stays(model: Path) -> None:
    assert settled(ppo(model, placement=ON_CPU)).policy.dtype == "float32"
    assert settled(ppo(model, placement=ON_GPU, device="cpu")).policy.dtype == "float32"
    assert settled(ppo(model, device="cuda")).policy.dtype == "bfloat16"
    given = {"path": str(model), "dtype": "float32"}
    assert settled(ppo(model, policy=given, placement=ON_GPU)).policy.dtype == "float32"


def test_it_waits_for_a_placement_that_is_worked_out_on_the_machine(model: Path) -> None:
    gpus = Machine(1, Nodes(8, 96.0))
    cfg = settled(ppo(model, policy={"path": "/none", "shape": yaml.safe_load(SHAPE)}))
    assert cfg.policy.dtype is None
    assert placed(cfg, Machine(1, Nodes(0, 2.0))).policy.dtype == "float32"
    assert placed(cfg, gpus).policy.dtype == "bfloat16"
    assert placed(cfg.model_copy(update={"device": "cpu"}), gpus).policy.dtype == "float32"


def test_every_model_of_a_job_has_one(model: Path, tmp_path: Path) -> None:
    other = {"path": str(write(tmp_path / "other", dtype="float32"))}
    rewards = [REWARD, {"name": "m", "kind": "model", "model": other}]
    cfg = ppo(model, rewards=rewards, reference={"path": str(tmp_path / "gone")}, critic={"model": other},
              placement=ON_GPU)  # fmt: skip
    found = settled(cfg)
    assert [use.config.dtype for use in found.models.values()] == ["bfloat16", "bfloat16", "float32", "float32"]
    assert found.rewards[0] is cfg.rewards[0]


def test_prompts_have_the_room_that_a_pass_leaves(model: Path) -> None:
    assert settled(ppo(model)).data.max_prompt_tokens == 4096 - 64
    assert settled(ppo(model, sampling={"max_response_tokens": 1000})).data.max_prompt_tokens == 3096
    wide = {"engine": {"micro_batch_tokens": 16384}}
    assert settled(ppo(model, learner=wide, critic=wide)).data.max_prompt_tokens == 8192 - 64  # of scorers
    assert settled(ppo(model, data={"path": "d", "max_prompt_tokens": 100})).data.max_prompt_tokens == 100


def test_prompts_have_the_room_of_the_model(tmp_path: Path) -> None:
    small = write(tmp_path / "small", text_config={"max_position_embeddings": 512})
    assert settled(ppo(small)).data.max_prompt_tokens == 512 - 64
    none = settled(ppo(small, sampling={"max_response_tokens": 512}))
    assert none.data.max_prompt_tokens is None  # the checks of lengths say that it does not fit


def test_evaluation_data_have_what_the_generators_make_room_for(model: Path) -> None:
    cfg = ppo(model, data={"path": "d", "max_prompt_tokens": 300}, eval_data={"path": "e"})
    assert settled(cfg).eval_data.max_prompt_tokens == 300


def test_other_jobs(model: Path) -> None:
    path = {"path": str(model)}
    sft = SFTConfig.model_validate({"name": "n", "model": path, "data": {"path": "d"}, "steps": 1})
    assert settled(sft).data.max_prompt_tokens == 4095
    evaluate = EvaluateConfig.model_validate({"name": "n", "policy": path, "data": {"path": "d"}, "rewards": [REWARD]})
    assert settled(evaluate).data.max_prompt_tokens == 4096 - 64
    loop = IterateConfig.model_validate(
        {"name": "n", "policy": path, "prompts": {"path": "d"}, "feedback": {"serve": {}},
         "reward_model": {"job": {"epochs": 1}}, "train": {"ppo": {"steps": 1}}, "evaluate": {"data": {"path": "e"}},
         "placement": ON_GPU}
    )  # fmt: skip
    found = settled(loop)
    assert (found.policy.dtype, found.prompts.max_prompt_tokens) == ("bfloat16", 4096 - 64)
    assert found.evaluate.data.max_prompt_tokens == 4096 - 64


def test_settling_twice_changes_nothing(model: Path) -> None:
    once = settled(ppo(model, placement=ON_GPU))
    assert settled(once) is once


def test_what_nothing_has_settled_is_what_it_was() -> None:
    assert (ModelConfig(path="m").compute_dtype, DataConfig(path="d").most_prompt_tokens) == ("float32", 1024)


def test_without_mini_batch_size_a_step_is_one_update(model: Path) -> None:
    grpo = {"advantage_estimator": "grpo", "prompts_per_step": 6, "n_samples_per_prompt": 4}
    cfg = ppo(model, algorithm=grpo, steps=10)
    assert (cfg.algorithm.update_size, cfg.optimizer_steps("policy")) == (24, 10)
    assert ppo(model, algorithm=grpo | {"mini_batch_size": 12}, steps=10).optimizer_steps("policy") == 20
