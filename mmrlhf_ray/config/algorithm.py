"""How a policy learns from scores: estimator, loss, KL, corrections. Names are the glossary's."""

from typing import Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from mmrlhf_ray.config.section import Section

AdvantageEstimator = Literal["gae", "reinforce", "reinforce_pp", "reinforce_pp_baseline", "rloo", "grpo", "dr_grpo"]
GROUPED = frozenset({"reinforce_pp_baseline", "rloo", "grpo", "dr_grpo"})
"""Estimators that compare the responses to one prompt with each other."""


_CISPO_HIGH = 4.0


class MismatchConfig(Section):
    """Correction of the policy loss for tokens to which sampler and learner give different probabilities. Always
    measured."""

    correction: Literal["none", "tis", "icepop", "sequence_mask"] = "none"
    """`tis`: weights truncated at `high`; `icepop`: tokens outside [low, high] are masked; `sequence_mask`: so are
    entire responses whose mean ratio is outside."""
    low: float = Field(0.5, ge=0, lt=1)
    """Lower bound of a token's or response's ratio (icepop, sequence_mask)."""
    high: float = Field(5.0, gt=1)
    """Upper bound of the ratio."""


class DynamicSamplingConfig(Section):
    """Prompts whose responses all score alike teach nothing; others are sampled in their place (DAPO)."""

    min_spread: NonNegativeFloat = 0.0
    """Highest minus lowest score of a prompt's responses must be more than this; use > 0 with model rewards."""


class OverlongConfig(Section):
    """A penalty that rises over the last tokens before the limit (DAPO, equation 13)."""

    buffer_tokens: PositiveInt
    """The penalty starts this many tokens before `sampling.max_response_tokens`."""
    penalty: PositiveFloat = 1.0
    """At the limit."""


class AlgorithmConfig(Section):
    """PPO with a critic, unless set otherwise."""

    advantage_estimator: AdvantageEstimator = "gae"
    """All but `gae` do without a critic."""
    gamma: float = Field(1.0, ge=0, le=1)
    """Discount per token of the rewards."""
    gae_lambda: float = Field(0.95, ge=0, le=1)
    """λ of GAE: 1 trusts returns alone, 0 the critic alone."""
    whiten: Literal["none", "center", "full"] | None = None
    """Advantages of a step: mean subtracted, and divided by the standard deviation; `null` = as the estimator's paper
    has it (`full` for gae, reinforce_pp and reinforce_pp_baseline, else `none`)."""
    kl_coef: NonNegativeFloat = 0.05
    """Weight of the KL to the reference; 0 = none."""
    kl_target: PositiveFloat | None = None
    """KL per response in nats that the adaptive controller steers to; `null` = fixed `kl_coef`."""
    kl_horizon: PositiveFloat = 10_000.0
    """Samples over which the adaptive controller reacts (Ziegler et al. 2019)."""
    kl_estimator: Literal["k1", "k2", "k3"] = "k1"
    """Estimate of the KL per token, with r = log p of the policy − log p of the reference: `k1` r, `k2` r²/2, `k3`
    e⁻ʳ − 1 + r."""
    kl_in: Literal["reward", "loss"] = "reward"
    """Whether kl_coef · KL is subtracted from the rewards or added to the loss."""
    policy_loss: Literal["ppo", "gspo", "cispo"] = "ppo"
    """Loss on the ratio to the old policy: `ppo` clips each token, `gspo` each response, `cispo` the weights
    instead of the loss."""
    clip_range: float | None = Field(0.2, gt=0, lt=1)
    """Ratios below 1 − this are clipped; `null` = no lower bound, and without a `clip_range_high` no clipping at all.
    With `policy_loss: cispo`, `null` unless given, as in its paper."""
    clip_range_high: PositiveFloat | None = None
    """Ratios above 1 + this are clipped; `null` = as `clip_range`. With `policy_loss: cispo` and neither given, 4:
    weights of up to 5."""
    dual_clip: float | None = Field(None, gt=1)
    """Bound on −A·ratio / |A| for negative advantages (Ye et al. 2020)."""
    aggregation: Literal["token_mean", "sequence_mean", "constant_length"] = "token_mean"
    """Of token losses: every token alike; every response alike; or every response's sum over
    `sampling.max_response_tokens`."""
    value_clip_range: PositiveFloat = 0.2
    """The critic's values may move this far from the old ones in a step."""
    vf_coef: PositiveFloat = 1.0
    """Factor on the value loss. The critic has its own optimizer, so it scales the critic's gradient only."""
    entropy_coef: NonNegativeFloat = 0.0
    """Weight of the entropy, which keeps responses diverse; 0 = only measured."""
    mismatch: MismatchConfig = MismatchConfig()
    old_logprobs: Literal["auto", "learner", "sampler"] = "auto"
    """The denominator of the policy's ratio. `learner`: a pass of its own before the update. `auto`: where a batch is
    one optimizer step, the update's own pass, in which the policy is still the old one; else as `learner`. `sampler`:
    `rollout_logprobs` serve once step 0 has passed `parity_gate`."""
    score_clip: PositiveFloat | None = None
    """Scores are clipped to ± this."""
    score_normalisation: Literal["none", "all", "task", "modality"] = "none"
    """Scores in units of their running mean and standard deviation, over all responses or each task or modality."""
    overlong: OverlongConfig | None = None
    dynamic_sampling: DynamicSamplingConfig | None = None
    n_samples_per_prompt: PositiveInt = 1
    """Responses to each prompt of a step; 2 or more for estimators that compare them."""
    prompts_per_step: PositiveInt = 64
    """Prompts of a step."""
    ppo_epochs: PositiveInt = 1
    """Passes over the responses of a step."""
    mini_batch_size: PositiveInt | None = None
    """Responses per optimizer step over all ranks; whole groups where it is a multiple of `n_samples_per_prompt`.
    `null` = all of a step, in one optimizer step."""
    critic_warmup_steps: int = Field(0, ge=0)
    """Steps in which only the critic learns. The policy's warm-up and schedule begin after them."""

    @property
    def update_size(self) -> int:
        """Responses per optimizer step."""
        return self.mini_batch_size or self.prompts_per_step * self.n_samples_per_prompt

    @property
    def has_critic(self) -> bool:
        return self.advantage_estimator == "gae"

    def old_logprobs_from(self, step: int, dropout: float) -> Literal["learner", "update", "sampler"]:
        """Who gives a step's `old_logprobs`: a pass of the learner's before the update, the update, or the sampler.

        The learner always does in step 0, whose gate compares them. `auto` leaves them to the update only where that
        gives the same numbers: nothing needs them earlier (a KL in the reward, a step without an update), there is one
        optimizer step, and no `dropout` sets the pass that trains apart from one that infers.
        """
        if step == 0 or self.old_logprobs == "learner":
            return "learner"
        if self.old_logprobs == "sampler":
            return "sampler"
        one_step = self.ppo_epochs == 1 and self.prompts_per_step * self.n_samples_per_prompt == self.update_size
        needed_before = (self.kl_in == "reward" and self.kl_coef > 0) or step < self.critic_warmup_steps
        return "learner" if needed_before or dropout or not one_step else "update"

    @model_validator(mode="before")
    @classmethod
    def _cispo_bounds(cls, values: Any) -> Any:
        """CISPO's weights are bounded from above alone unless the user says otherwise."""
        if not isinstance(values, dict) or values.get("policy_loss") != "cispo" or "clip_range" in values:
            return values
        return {"clip_range": None, "clip_range_high": _CISPO_HIGH} | values

    @model_validator(mode="after")
    def _agrees(self) -> "AlgorithmConfig":
        if self.advantage_estimator in GROUPED and self.n_samples_per_prompt < 2:
            raise ValueError(
                f"algorithm.advantage_estimator={self.advantage_estimator} compares responses to one prompt; set "
                f"n_samples_per_prompt to 2 or more, got {self.n_samples_per_prompt}"
            )
        if self.dynamic_sampling and self.n_samples_per_prompt < 2:
            raise ValueError("algorithm.dynamic_sampling needs n_samples_per_prompt of 2 or more, got 1")
        if self.critic_warmup_steps and not self.has_critic:
            raise ValueError(
                f"algorithm.critic_warmup_steps={self.critic_warmup_steps} but advantage_estimator="
                f"{self.advantage_estimator} has no critic; set it to 0"
            )
        if self.dual_clip is not None and self.clip_range is None and self.clip_range_high is None:
            raise ValueError("algorithm.dual_clip needs a clip_range or clip_range_high; both are null")
        if self.dual_clip is not None and self.policy_loss == "cispo":
            raise ValueError("algorithm.dual_clip has no place in policy_loss=cispo, which clips no loss; leave it out")
        if self.gamma != 1 and self.advantage_estimator in GROUPED:
            raise ValueError(
                f"algorithm.gamma={self.gamma} has no effect: advantage_estimator={self.advantage_estimator} compares "
                "whole responses; set it to 1"
            )
        if self.kl_in == "loss" and self.kl_coef and self.kl_estimator == "k1":
            raise ValueError(
                "algorithm.kl_estimator=k1 has no expected gradient in the loss and would hold nothing; "
                "with kl_in=loss use k2 or k3"
            )
        if self.old_logprobs == "sampler" and self.mismatch.correction != "none":
            raise ValueError(
                f"algorithm.old_logprobs=sampler has nothing for mismatch.correction={self.mismatch.correction} to "
                "compare with the sampler's; set old_logprobs to auto or learner, or the correction to none"
            )
        if self.kl_target is not None and not self.kl_coef:
            raise ValueError("algorithm.kl_target steers kl_coef, which starts at 0 and would stay there; give kl_coef")
        for key in ("gae_lambda", "value_clip_range", "vf_coef"):
            value: float = getattr(self, key)
            if not self.has_critic and value != type(self).model_fields[key].default:
                raise ValueError(
                    f"algorithm.{key}={value:g} has no effect: it needs a critic, and advantage_estimator="
                    f"{self.advantage_estimator} has none; leave it out"
                )
        return self
