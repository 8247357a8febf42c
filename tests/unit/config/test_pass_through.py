"""Settings of the frameworks that a job file hands on, and those that are this project's own."""

from typing import Any

import pytest
from pydantic import ValidationError

from mmrlhf_ray.config import PPOConfig
from mmrlhf_ray.errors import RunError
from mmrlhf_ray.workers.roles.engine import refuse_unknown


def config(**changes: Any) -> PPOConfig:
    reward = {"name": "good", "kind": "function", "function": "mmrlhf_ray.rewards.text:length"}
    return PPOConfig.model_validate(
        {"policy": {"path": "/models/any"}, "rewards": [reward], "data": {"path": "/data/any.jsonl"}, "name": "any"}
        | changes
    )


def test_variables_are_texts_and_numbers() -> None:
    cfg = config(env={"NCCL_DEBUG": "INFO", "NCCL_IB_TIMEOUT": 22})
    assert cfg.env == {"NCCL_DEBUG": "INFO", "NCCL_IB_TIMEOUT": "22"}


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("OMP_NUM_THREADS", "threads"),
        ("CUDA_VISIBLE_DEVICES", "num_gpus"),
        ("MASTER_PORT", "leave it out"),
        ("RAY_memory_usage_threshold", "where Ray is started"),
    ],
)
def test_variables_that_are_ours_are_refused(name: str, instead: str) -> None:
    with pytest.raises(ValidationError, match=rf"{name} is set by this project; .*{instead}"):
        config(env={name: "1"})


def test_arguments_of_the_engine_are_handed_on() -> None:
    given = {"kv_cache_dtype": "fp8", "speculative_config": {"method": "ngram"}}
    assert config(generator={"engine_args": given}).generator.engine_args == given


@pytest.mark.parametrize(
    ("name", "instead"),
    [("max_num_seqs", "generator.max_num_seqs"), ("dtype", "policy.dtype"), ("logprobs_mode", "log-probabilities")],
)
def test_arguments_of_the_engine_that_are_ours_are_refused(name: str, instead: str) -> None:
    with pytest.raises(ValidationError, match=rf"{name} is set by this project; .*{instead}"):
        config(generator={"engine_args": {name: 1}})


def test_an_argument_that_the_engine_does_not_have_is_named() -> None:
    known = ["kv_cache_dtype", "max_num_batched_tokens"]
    refuse_unknown({"kv_cache_dtype": "fp8"}, known)
    with pytest.raises(RunError, match=r"engine_args\.kv_cache_dtpe: .* did you mean kv_cache_dtype\?"):
        refuse_unknown({"kv_cache_dtpe": "fp8"}, known)
    with pytest.raises(RunError, match=r"engine_args\.zzz: .*leave it out"):
        refuse_unknown({"zzz": 1}, known)
