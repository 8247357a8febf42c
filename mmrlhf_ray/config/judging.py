"""The configuration of each job that asks what models are worth, and trains none."""

from collections.abc import Mapping

from pydantic import Field, PositiveInt, model_validator

from mmrlhf_ray.config.base import AllowedTokens, Longest, ModelConfig, ModelUse, RecordsUse
from mmrlhf_ray.config.data import DataConfig
from mmrlhf_ray.config.environment import EnvironmentConfig, check_episodes
from mmrlhf_ray.config.generator import GeneratorConfig
from mmrlhf_ray.config.online import SamplingConfig, longest
from mmrlhf_ray.config.placement import Placement, Resources
from mmrlhf_ray.config.rewarded import RewardedConfig
from mmrlhf_ray.config.rewards import FluencyReward, ModelReward, Reward


class EvaluateConfig(RewardedConfig):
    """Responses of one or several policies to held-out prompts, scored."""

    policy: ModelConfig
    """Policy that is evaluated."""
    baseline: ModelConfig | None = None
    """Policy to compare with, usually the SFT model."""
    reference: ModelConfig | None = None
    """Policy to which the KL is measured; `null` = `baseline`."""
    rewards: tuple[Reward, ...] = ()
    """Components that score responses, as in `ppo`."""
    reward_model: ModelConfig | None = None
    """Short for `rewards` with this reward model alone."""
    data: DataConfig
    """Held-out prompts."""
    sampling: SamplingConfig = SamplingConfig()
    environment: EnvironmentConfig | None = None
    """Tools or another environment that answers the policy's turns, as in `ppo`."""
    generator: GeneratorConfig = GeneratorConfig()
    score_micro_batch_tokens: PositiveInt = 8192
    """Most tokens in one forward pass of a scorer or reference server."""
    placement: Placement = Placement()
    n_samples_per_prompt: PositiveInt = 1
    """Responses of each policy to each prompt."""
    best_of: tuple[int, ...] = ()
    """Also the best of this many responses by the same score, for each number, of `baseline`, or without one of
    `policy`: what choosing alone gains, without learning."""
    ablate_media: bool = True
    """Also answer with each prompt's media swapped for another prompt's of the same task."""
    media_kept_mb: int = Field(1024, ge=0)
    """Most MiB of media in `<run>/media`, each clip once; where it is full, responses name media without them."""

    @property
    def kl_reference(self) -> ModelConfig | None:
        """The model that the KL is measured to; None without one, and where responses are not drawn from all of the
        policy's distribution, so that their log-probabilities are not the policy's."""
        return (self.reference or self.baseline) if self.sampling.full else None

    @property
    def components(self) -> tuple[Reward, ...]:
        """All that scores a response."""
        if self.reward_model is None:
            return self.rewards
        return (ModelReward(name="reward_model", kind="model", model=self.reward_model),)

    @property
    def model_rewards(self) -> tuple[ModelReward, ...]:
        return tuple(r for r in self.components if isinstance(r, ModelReward))

    @property
    def roles(self) -> Mapping[str, Resources]:
        has = {
            "encoder": True,
            "generator": True,
            "scorer": bool(self.model_rewards),
            "functions": bool(self.function_rewards),
            "reference": self.kl_reference is not None,
        }
        return self.placement.of(*(role for role, wanted in has.items() if wanted))

    @property
    def models(self) -> Mapping[str, ModelUse]:
        most = longest(self.data, self.sampling)
        found = {"policy": ModelUse(self.policy, reads=most)}
        found |= {"baseline": ModelUse(self.baseline, reads=most)} if self.baseline else {}
        found |= {"reference": ModelUse(self.reference, reads=most)} if self.reference else {}
        found |= {"reward_model": ModelUse(self.reward_model, scores=True, reads=most)} if self.reward_model else {}
        return found | (self._scoring(most) if self.rewards else {})

    @property
    def records(self) -> Mapping[str, RecordsUse]:
        return {"data": RecordsUse(self.data, "PROMPT", None, "an evaluation", self.generator.most_media)}

    @model_validator(mode="after")
    def _measures_something(self) -> "EvaluateConfig":
        self.placement.refuse_changing("generators join and leave in online training alone")
        self.placement.refuse_sharing("roles take turns on devices in online training alone")
        check_episodes(self.environment, self.rewards, self.sampling.max_response_tokens, self.generator.most_media)
        if self.rewards and self.reward_model is not None:
            raise ValueError("reward_model is short for rewards with one component; leave one of them out")
        if self.reference is not None and not self.sampling.full:
            key = "temperature=0" if self.sampling.greedy else f"top_p={self.sampling.top_p:g}"
            raise ValueError(
                f"sampling.{key}: responses are not drawn from all of the policy's distribution, so that no KL to "
                "`reference` follows from them; set temperature above 0 and top_p to 1, or leave `reference` out"
            )
        if self.best_of:
            if min(self.best_of) < 2 or len(set(self.best_of)) < len(self.best_of):
                raise ValueError(f"best_of expects different numbers of at least 2, got {list(self.best_of)}")
            if not self.components:
                raise ValueError(
                    f"best_of={list(self.best_of)} needs a score to choose by; give rewards or reward_model"
                )
            self.sampling.refuse_greedy(f"all best_of={list(self.best_of)} would be the same")
        if self.n_samples_per_prompt > 1:
            self.sampling.refuse_greedy(f"all n_samples_per_prompt={self.n_samples_per_prompt} would be the same")
        for judge in self.judge_rewards:
            if judge.pairs is not None:
                raise ValueError(
                    f"rewards.{judge.name}.pairs compares a policy's responses with each other, so that every policy "
                    "would have the same mean; leave `pairs` out"
                )
        for reward in self.rewards:
            if isinstance(reward, FluencyReward):
                raise ValueError(f"rewards.{reward.name}: fluency is measured in training only; leave it out")
            if reward.normalise:
                raise ValueError(
                    f"rewards.{reward.name}.normalise is a running scale of training, and scores of two policies would "
                    "not compare; leave it out"
                )
        return self


class ProbeRewardConfig(RewardedConfig):
    """Adversarial responses through rewards: which of them score above honest ones?"""

    policy: ModelConfig
    """Whose tokenizer and processor read prompts and responses; `fluency` is computed under it."""
    rewards: tuple[Reward, ...] = Field(min_length=1)
    """Components that are probed."""
    data: DataConfig
    """DEMONSTRATION records; their responses are the honest ones. Those with feedback below 0 are not used."""
    where: dict[str, str] = Field(default_factory=dict)
    """Key in `extras` → the text that it must have for a record to be used, where not all responses are honest."""
    prompts: PositiveInt = 64
    """How many records are used."""
    sampling: AllowedTokens = AllowedTokens()
    max_response_tokens: int = Field(64, ge=2)
    """Of any response; the very long ones have as many."""
    tolerated_share: float = Field(0.05, ge=0, le=1)
    """A probe passes when at most this share of its responses scores above the honest one."""
    score_micro_batch_tokens: PositiveInt = 8192
    """Most tokens in one forward pass of a scorer or reference server."""
    placement: Placement = Placement()

    @model_validator(mode="after")
    def _has_no_turns(self) -> "ProbeRewardConfig":
        self.placement.refuse_sharing("roles take turns on devices in online training alone")
        for reward in self.environment_rewards:
            raise ValueError(f"rewards.{reward.name}: a probe has no environment; leave it out")
        return self

    @property
    def roles(self) -> Mapping[str, Resources]:
        has = {
            "scorer": bool(self.model_rewards),
            "functions": bool(self.function_rewards),
            "reference": any(isinstance(r, FluencyReward) for r in self.rewards),
        }
        return self.placement.of(*(role for role, wanted in has.items() if wanted))

    @property
    def models(self) -> Mapping[str, ModelUse]:
        most = Longest(
            "data.max_prompt_tokens + max_response_tokens", self.data.most_prompt_tokens + self.max_response_tokens
        )
        fluent = any(isinstance(r, FluencyReward) for r in self.rewards)
        return {"policy": ModelUse(self.policy, any_head=not fluent, reads=most)} | self._scoring(most)

    @property
    def records(self) -> Mapping[str, RecordsUse]:
        return {"data": RecordsUse(self.data, "DEMONSTRATION", held_for="a probe")}
