"""The check before the first update: rounding passes however many tokens there are, another model does not."""

import math
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest

from mmrlhf_ray.config import PPOConfig
from mmrlhf_ray.errors import RunError
from mmrlhf_ray.pipelines.ppo.experience import Experience
from mmrlhf_ray.pipelines.ppo.gate import check_agreement

TOKENS = 1_000_000
Made = np.ndarray


def config(dtype: str, **gate: float) -> PPOConfig:
    policy = {"path": "/models/any", "dtype": dtype}
    reward = {"name": "good", "kind": "function", "function": "mmrlhf_ray.rewards.text:length"}
    return PPOConfig.model_validate(
        {
            "policy": policy,
            "rewards": [reward],
            "data": {"path": "/data/any.jsonl"},
            "output_dir": "/runs",
            "name": "any",
        }
        | ({"parity_gate": gate} if gate else {})
    )


def experience(sampled: Made, old: Made, ref: Made) -> Experience:
    def column(values: Made) -> pa.Array:
        return pa.ListArray.from_arrays(pa.array([0, len(values)], pa.int32()), pa.array(values.astype(np.float32)))

    modality, mask = pa.array(["text"]), pa.array([np.ones(len(old), bool)])
    table = pa.table(
        {
            "modality": modality,
            "response_mask": mask,
            "rollout_logprobs": column(sampled),
            "old_logprobs": column(old),
            "ref_logprobs": column(ref),
        }
    )
    return Experience(table, np.zeros(1), True, {}, {})


def apart(noise: Callable[[np.random.Generator], Made]) -> Experience:
    """The sampler is as far from the learner as `noise` says, the reference is the learner."""
    rng = np.random.default_rng(0)
    old = -rng.exponential(2.0, TOKENS)
    return experience(old + noise(rng), old, old)


def rounding(rng: np.random.Generator) -> Made:
    """As measured of vLLM against a trainer in bfloat16, with a long tail."""
    return 0.03 * rng.standard_t(4, TOKENS)


def test_rounding_in_bfloat16_passes_however_many_tokens_there_are():
    made = apart(rounding)
    assert np.abs(made.table["rollout_logprobs"].combine_chunks().values.to_numpy()).max() > 0.1
    check_agreement(made, config("bfloat16"), 0)


def test_what_passes_in_bfloat16_does_not_in_float32():
    with pytest.raises(RunError, match=r"sampler and learner differ for text prompts: .*parity_gate\.mean=0\.0001"):
        check_agreement(apart(rounding), config("float32"), 0)


def test_one_token_is_enough_in_float32():
    def one(rng: np.random.Generator) -> Made:
        noise = np.zeros(TOKENS)
        noise[7] = 0.01
        return noise

    with pytest.raises(
        RunError, match=r"share of tokens beyond 0\.0001 nats is 1\.00e-06.*largest of 1000000.* 1\.00e-02"
    ):
        check_agreement(apart(one), config("float32"), 0)


@pytest.mark.parametrize(
    ("noise", "key"),
    [
        (lambda rng: 0.1 * rng.standard_normal(TOKENS), "mean"),
        (lambda rng: np.where(rng.random(TOKENS) < 0.02, 1.2, 0.0), "kl"),
        (lambda rng: np.where(rng.random(TOKENS) < 0.002, 0.6, 0.0), "outliers"),
    ],
)
def test_another_model_is_refused_in_bfloat16(noise: Callable[[np.random.Generator], Made], key: str):
    with pytest.raises(RunError, match=rf"parity_gate\.{key}="):
        check_agreement(apart(noise), config("bfloat16"), 0)


def test_a_reference_that_is_another_model_is_refused():
    same = apart(lambda rng: np.zeros(TOKENS))
    old = same.table["old_logprobs"].combine_chunks().values.to_numpy()
    with pytest.raises(RunError, match="reference and learner differ"):
        check_agreement(experience(old, old, old + 0.2), config("bfloat16"), 0)


def test_what_is_no_number_is_refused():
    numbers = np.array([-1.0, math.nan])
    with pytest.raises(RunError, match="sampler and learner"):
        check_agreement(experience(numbers, numbers, numbers), config("bfloat16"), 0)


def test_bounds_that_are_set_replace_those_of_the_dtype():
    made = apart(lambda rng: 0.1 * rng.standard_normal(TOKENS))
    check_agreement(made, config("bfloat16", mean=0.2), 0)


def shared() -> PPOConfig:
    """A generator that shares its device."""
    cfg = config("bfloat16")
    return cfg.model_copy(
        update={"placement": cfg.placement.model_copy(update={"colocate": (("generator", "policy"),)})}
    )


def test_after_the_first_step_only_engines_that_slept_are_looked_at():
    odd = apart(lambda rng: 0.1 * rng.standard_normal(TOKENS))
    check_agreement(odd, config("bfloat16"), 1)
    with pytest.raises(RunError, match="step 1: .*sampler and learner differ for text prompts"):
        check_agreement(odd, shared(), 1)


def test_one_modality_is_enough():
    def rows(*values: float) -> pa.Array:
        return pa.array([[value] * 50 for value in values], pa.list_(pa.float32()))

    table = pa.table(
        {
            "modality": ["text", "image", "text", "video"],
            "rollout_logprobs": rows(-1.0, -1.0, -1.0, -1.1),
            "old_logprobs": rows(-1.0, -1.0, -1.0, -1.0),
            "ref_logprobs": rows(-1.0, -1.0, -1.0, -1.0),
            "response_mask": [[True] * 50] * 4,
        }
    )
    with pytest.raises(RunError, match="differ for video prompts"):
        check_agreement(Experience(table, np.zeros(4), True, {}, {}), config("bfloat16"), 0)
