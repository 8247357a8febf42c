"""Settings that could do nothing, or not what they say, are refused by name; the nearest that work are not."""

from typing import Any

import pytest
from pydantic import ValidationError

from mmrlhf_ray.config import EvaluateConfig, IterateConfig, PPOConfig, RunConfig, SamplingConfig, SFTConfig
from mmrlhf_ray.config.iterate import SampleSection

MODEL, DATA = {"path": "m"}, {"path": "d.jsonl"}
JOBS: dict[type[RunConfig], dict[str, Any]] = {
    PPOConfig: {
        "policy": MODEL,
        "data": DATA,
        "steps": 20,
        "rewards": [{"name": "r", "kind": "function", "function": "length"}],
    },
    SFTConfig: {"model": MODEL, "data": DATA, "steps": 20},
    EvaluateConfig: {"policy": MODEL, "data": DATA},
}
GRPO = {"advantage_estimator": "grpo", "n_samples_per_prompt": 4}
CORRECTED = {"algorithm": {"mismatch": {"correction": "tis"}}}
REWARD = {"name": "r", "kind": "function", "function": "length"}


def made(kind: type[RunConfig], **changes: Any) -> Any:
    return kind.model_validate({"name": "n", **JOBS[kind], **changes})


def optimizer(**keys: Any) -> dict[str, Any]:
    return {"optimizer": keys}


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        (PPOConfig, {"algorithm": {"kl_target": 1.0, "kl_coef": 0}}, "kl_target steers kl_coef, which starts at 0"),
        (PPOConfig, {"algorithm": {"kl_target": 1.0, "kl_coef": 0, "kl_in": "loss", "kl_estimator": "k2"}},
         "kl_target steers kl_coef, which starts at 0"),
        (PPOConfig, {"algorithm": GRPO | {"gae_lambda": 0.9}}, "gae_lambda=0.9 has no effect: it needs a critic"),
        (PPOConfig, {"algorithm": GRPO | {"vf_coef": 0.5}}, "algorithm.vf_coef=0.5 has no effect"),
        (PPOConfig, {"algorithm": {"critic_warmup_steps": 20}}, "critic_warmup_steps=20 is not below steps=20"),
        (PPOConfig, {"algorithm": {"critic_warmup_steps": 500}}, "critic_warmup_steps=500 is not below steps=20"),
        (PPOConfig, {"learner": optimizer(warmup_steps=20)},
         "learner.optimizer.warmup_steps=20 is not below the 20 optimizer steps of the policy"),
        (PPOConfig, {"algorithm": {"critic_warmup_steps": 15}, "learner": optimizer(warmup_steps=5)},
         "not below the 5 optimizer steps of the policy"),
        (PPOConfig, {"learner": {"parts": {"vision_tower": {"train": False, "lr": 0.1}}}}, "lr=0.1 has no effect with"),
        (PPOConfig, {"critic": optimizer(warmup_steps=30)}, "critic.optimizer.warmup_steps=30 is not below the 20"),
        (PPOConfig, {"learner": optimizer(betas=(1.5, 0.9))}, "less than 1"),
        (PPOConfig, {"learner": optimizer(betas=(0.9, -0.1))}, "greater than or equal to 0"),
        (PPOConfig, {"sampling": {"temperature": 0}}, "temperature=0 is greedy: a policy learns from responses that"),
        (PPOConfig, {"sampling": {"temperature": 0.005}}, "temperature=0.005: the sampler raises what is below 0.01"),
        (PPOConfig, {"stream": {"max_staleness": 1}},
         "stream.max_staleness=1 trains on what older weights .* set algorithm.mismatch.correction to tis, icepop"),
        (PPOConfig, {"checkpoint": {"best": "eval_score"}}, "best=eval_score has no effect in a job"),
        (SFTConfig, {"checkpoint": {"best": "-eval_loss"}}, "best=-eval_loss has no effect in a job"),
        (PPOConfig, {"checkpoint": {"best": "score"}}, "String should match pattern"),
        (PPOConfig, {"stream": {"in_flight": "finish"}}, "in_flight=finish has no effect with max_staleness=0"),
        (PPOConfig, CORRECTED | {"stream": {"max_staleness": 1, "deterministic": True}}, "deterministic=true with"),
        (PPOConfig, {"stream": {"max_running": 5}}, "max_running=5 has no effect where a step"),
        (PPOConfig, CORRECTED | {"stream": {"max_staleness": 1, "max_running": 128}}, "no more than 128 groups"),
        (PPOConfig, CORRECTED | {"stream": {"max_staleness": 1}, "learner": {"lora": {}}},
         "stream.in_flight=keep cannot be done with learner.lora"),
        (PPOConfig, {"stream": {"oversample": 1.5}}, "stream.oversample=1.5 has no use without algorithm.dynamic_samp"),
        (PPOConfig, {"stream": {"oversample": 0.5}}, "greater than or equal to 1"),
        (SFTConfig, {"learner": optimizer(warmup_steps=20)}, "warmup_steps=20 is not below the 20 optimizer steps"),
        (SFTConfig, {"learner": optimizer(betas=(0.9, 1.0))}, "less than 1"),
        (SFTConfig, {"eval_every_steps": 5}, "eval_every_steps=5 has no effect without eval_data"),
        (PPOConfig, {"eval_every_steps": 5}, "eval_every_steps has no effect without eval_data"),
        (PPOConfig, {"eval_samples_per_prompt": 2}, "eval_samples_per_prompt has no effect without eval_data"),
        (PPOConfig, {"eval_data": DATA | {"max_prompt_tokens": 2000}}, "eval_data.max_prompt_tokens=2000 is above"),
        (PPOConfig, {"eval_data": DATA | {"video": {"max_frames": 3}}}, "eval_data.video differs from data.video"),
        (EvaluateConfig, {"sampling": {"temperature": 1e-6}}, "temperature=1e-06: the sampler raises"),
        (EvaluateConfig, {"sampling": {"temperature": 0, "top_p": 0.9}}, "top_p=0.9 has no effect with temperature=0"),
        (EvaluateConfig, {"sampling": {"temperature": 0}, "n_samples_per_prompt": 2},
         "all n_samples_per_prompt=2 would be the same"),
        (EvaluateConfig, {"best_of": [4]}, r"best_of=\[4\] needs a score to choose by"),
        (EvaluateConfig, {"best_of": [4, 1], "reward_model": MODEL}, "best_of expects different numbers"),
        (EvaluateConfig, {"best_of": [4], "reward_model": MODEL, "sampling": {"temperature": 0}}, "would be the same"),
        (EvaluateConfig, {"sampling": {"top_p": 0.9}, "reference": MODEL}, "top_p=0.9: .* no KL to `reference`"),
        (EvaluateConfig, {"sampling": {"temperature": 0}, "reference": MODEL}, "temperature=0: .* no KL to"),
        (EvaluateConfig, {"rewards": [REWARD], "reward_model": MODEL}, "leave one of them out"),
        (EvaluateConfig, {"rewards": [REWARD | {"normalise": True}]}, "rewards.r.normalise is a running scale"),
        (EvaluateConfig, {"rewards": [{"name": "r", "kind": "fluency"}]}, "rewards.r: fluency is measured in training"),
    ],
)  # fmt: skip
def test_refused(kind: type[RunConfig], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        made(kind, **changes)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        (PPOConfig, {"algorithm": {"kl_target": 1.0, "kl_horizon": 5.0}}),
        # A base file has these for its own algorithm; what is laid over it need not take them back.
        (PPOConfig, {"algorithm": GRPO | {"kl_horizon": 5.0}, "critic": optimizer(warmup_steps=500)}),
        (PPOConfig, {"algorithm": {"critic_warmup_steps": 19}}),
        (PPOConfig, {"learner": optimizer(warmup_steps=19, betas=(0.0, 0.999))}),
        (PPOConfig, {"algorithm": {"ppo_epochs": 2}, "learner": optimizer(warmup_steps=39)}),
        (PPOConfig, {"sampling": {"temperature": 0.01}}),
        (PPOConfig, {"algorithm": GRPO | {"dynamic_sampling": {}}, "stream": {"oversample": 1.5}}),
        (PPOConfig, CORRECTED | {"stream": {"max_staleness": 1, "max_running": 127, "in_flight": "recompute"}}),
        (PPOConfig, CORRECTED | {"stream": {"max_staleness": 2, "in_flight": "finish"}, "learner": {"lora": {}}}),
        (PPOConfig, {"stream": {"deterministic": False, "max_running": 8}}),
        (PPOConfig, {"stream": {"deterministic": True}}),
        (PPOConfig, {"eval_data": DATA | {"max_prompt_tokens": 512}, "eval_samples_per_prompt": 4}),
        (SFTConfig, {"learner": optimizer(warmup_steps=19), "eval_data": DATA, "eval_every_steps": 5}),
        (EvaluateConfig, {"sampling": {"temperature": 0}, "baseline": MODEL}),
        (EvaluateConfig, {"sampling": {"top_p": 0.9}, "baseline": MODEL}),
        (EvaluateConfig, {"rewards": [REWARD | {"cost": {"bound": 1.0}}]}),
    ],
)
def test_accepted(kind: type[RunConfig], changes: dict[str, Any]) -> None:
    made(kind, **changes)


def test_pairs_of_equal_responses_are_not_asked_about() -> None:
    with pytest.raises(ValidationError, match=r"sample\.temperature=0 is greedy: all responses to a prompt"):
        SampleSection(temperature=0)
    assert "sample" in IterateConfig.model_fields


@pytest.mark.parametrize(
    ("sampling", "has_kl"),
    [({}, True), ({"temperature": 0.7}, True), ({"top_p": 0.9}, False), ({"temperature": 0}, False)],
)
def test_a_kl_is_measured_only_of_the_distribution_that_is_compared(sampling: dict[str, Any], has_kl: bool) -> None:
    cfg = made(EvaluateConfig, baseline=MODEL, sampling=sampling)
    assert (cfg.kl_reference is not None) is has_kl
    assert ("reference" in cfg.roles) is has_kl
    assert SamplingConfig(**sampling).full is has_kl


@pytest.mark.parametrize(
    ("changes", "policy", "critic"),
    [
        ({}, 20, 20),
        ({"algorithm": {"critic_warmup_steps": 10}}, 10, 20),
        ({"algorithm": {"critic_warmup_steps": 10, "ppo_epochs": 3, "mini_batch_size": 32}}, 60, 120),
    ],
)
def test_a_schedule_counts_the_steps_that_its_optimizer_makes(
    changes: dict[str, Any], policy: int, critic: int
) -> None:
    cfg = made(PPOConfig, **changes)
    assert (cfg.optimizer_steps("policy"), cfg.optimizer_steps("critic")) == (policy, critic)
