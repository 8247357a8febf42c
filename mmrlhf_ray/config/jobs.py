"""The configuration of each job that trains."""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from mmrlhf_ray.config.algorithm import AlgorithmConfig
from mmrlhf_ray.config.base import (
    AllowedTokens,
    LearnerConfig,
    LearnerPlacement,
    LearnerUse,
    Longest,
    ModelConfig,
    ModelUse,
    MostMedia,
    RecordsUse,
    Resources,
    RolePlacement,
    RunConfig,
    TrainJobConfig,
)
from mmrlhf_ray.config.data import DataConfig
from mmrlhf_ray.config.rewards import FluencyReward, FunctionReward, JudgeReward, ModelReward, RemoteReward, Reward
from mmrlhf_ray.config.section import Section
from mmrlhf_ray.config.stream import StreamConfig


def _refuse_facts(cfg: TrainJobConfig) -> None:
    for key, data in (("data", cfg.data), ("eval_data", cfg.eval_data)):
        if data is not None and data.facts_column is not None:
            raise ValueError(
                f"{key}.facts_column={data.facts_column} is for reward models; a policy never sees facts, leave it out"
            )


class SFTConfig(TrainJobConfig):
    """Supervised fine-tuning on DEMONSTRATION records."""

    feedback_coef: NonNegativeFloat = 0.0
    """λ of L′ = L + λH: how much rows with feedback ±1 count next to demonstrations; at 0 they count nothing."""

    @property
    def table(self) -> Literal["DEMONSTRATION"]:
        return "DEMONSTRATION"

    @model_validator(mode="after")
    def _without_facts(self) -> "SFTConfig":
        _refuse_facts(self)
        return self


class RewardModelConfig(TrainJobConfig):
    """A reward model on PREFERENCE (bradley_terry) or RANKING records (plackett_luce, rating)."""

    objective: Literal["bradley_terry", "plackett_luce", "rating"] = "bradley_terry"
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    margin_coef: NonNegativeFloat = 0.0
    """How far apart scores must be, times the record's `margin` (bradley_terry)."""
    center_coef: NonNegativeFloat = 0.0
    """Weight of (r_chosen + r_rejected)², which keeps scores near zero (Eisenstein et al. 2023)."""
    aspects: dict[str, float] = Field(default_factory=dict)
    """Aspect of the ratings → its weight in the score; each gets its own head (rating)."""
    ensemble: PositiveInt = 1
    """Heads that each learn from their own resampling of the rows; their spread is the uncertainty."""

    @property
    def table(self) -> Literal["PREFERENCE", "RANKING"]:
        return "PREFERENCE" if self.objective == "bradley_terry" else "RANKING"

    @property
    def models(self) -> Mapping[str, ModelUse]:
        return {"model": ModelUse(self.model, any_head=True)}

    @property
    def trained(self) -> Mapping[str, LearnerUse]:
        return {"learner": LearnerUse(self.model, self.learner, scalar=True)}

    @model_validator(mode="after")
    def _fits_objective(self) -> "RewardModelConfig":
        if (self.objective == "rating") != bool(self.aspects):
            raise ValueError(
                f"aspects belong to objective=rating; got objective={self.objective}, aspects={self.aspects}"
            )
        for key in ("label_smoothing", "margin_coef", "center_coef"):
            if self.objective != "bradley_terry" and getattr(self, key):
                raise ValueError(f"{key} belongs to objective=bradley_terry, not {self.objective}; leave it out")
        return self


_WITH_REFERENCE = frozenset({"dpo", "ipo", "kto", "bco", "mpo"})
"""Objectives that compare with a reference, whose log-probabilities are computed before training."""


class PreferenceConfig(TrainJobConfig):
    """Direct preference training of a policy, without a reward model."""

    objective: Literal["dpo", "ipo", "kto", "orpo", "simpo", "bco", "mpo"] = "dpo"
    reference: ModelConfig | None = None
    """`null` = `model` at the start of training. orpo and simpo use no reference."""
    beta: PositiveFloat = 0.1
    """Inverse temperature of the implicit reward; the weight of the odds ratio in orpo."""
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    """Share of labels believed wrong (cDPO)."""
    simpo_margin: NonNegativeFloat = 0.5
    """γ of SimPO."""
    sft_coef: NonNegativeFloat = 0.0
    """Weight of the chosen response's mean negative log-likelihood (dpo, ipo, simpo)."""
    desirable_weight: PositiveFloat = 1.0
    undesirable_weight: PositiveFloat = 1.0
    """λ_D and λ_U of KTO."""
    mpo_weights: tuple[float, float, float] = (0.8, 0.2, 1.0)
    """Of DPO, BCO and SFT in mpo."""
    changed_token_weight: PositiveFloat | None = None
    """dpo: tokens that differ between chosen and rejected count this much, common ones 1 (RLHF-V); `null` = sums."""
    margin_scale: NonNegativeFloat = 0.0
    """dpo: β grows with the record's margin m to β·(1 + margin_scale·(1 − exp(−margin_rate·m))) (MM-RLHF)."""
    margin_rate: PositiveFloat = 1.0
    unpaired: bool = False
    """kto, bco: read DEMONSTRATION records with feedback ±1 instead of PREFERENCE records."""

    @property
    def table(self) -> Literal["DEMONSTRATION", "PREFERENCE"]:
        return "DEMONSTRATION" if self.unpaired else "PREFERENCE"

    @property
    def models(self) -> Mapping[str, ModelUse]:
        return {"model": ModelUse(self.model)} | ({"reference": ModelUse(self.reference)} if self.reference else {})

    @property
    def held_for(self) -> str | None:
        return f"objective={self.objective}" if self.objective in _WITH_REFERENCE else None

    @model_validator(mode="after")
    def _fits_objective(self) -> "PreferenceConfig":
        _refuse_facts(self)
        given = self.model_fields_set
        belongs = {
            "label_smoothing": {"dpo"},
            "simpo_margin": {"simpo"},
            "sft_coef": {"dpo", "ipo", "simpo"},
            "desirable_weight": {"kto"},
            "undesirable_weight": {"kto"},
            "mpo_weights": {"mpo"},
            "changed_token_weight": {"dpo"},
            "margin_scale": {"dpo"},
            "unpaired": {"kto", "bco"},
            "reference": _WITH_REFERENCE,
        }
        for key, objectives in belongs.items():
            default = type(self).model_fields[key].default
            if key in given and getattr(self, key) != default and self.objective not in objectives:
                raise ValueError(f"{key} belongs to objective {' or '.join(sorted(objectives))}, not {self.objective}")
        return self


LOWEST_TEMPERATURE = 0.01
"""The sampler takes every temperature below this, except 0, for this one."""


class SamplingConfig(AllowedTokens):
    """How responses are sampled."""

    temperature: NonNegativeFloat = 1.0
    """0 = greedy: the likeliest token each time; only where nothing is learned from the responses."""
    top_p: float = Field(1.0, gt=0, le=1)
    max_response_tokens: PositiveInt = 64

    @property
    def greedy(self) -> bool:
        """Whether nothing is left to chance."""
        return self.temperature == 0

    @property
    def full(self) -> bool:
        """Whether responses are drawn from all of the model's distribution, so that log-probabilities are its own."""
        return self.top_p == 1.0 and not self.greedy

    def refuse_greedy(self, why: str, section: str = "sampling") -> None:
        """Raise ValueError where the temperature is 0."""
        if self.greedy:
            raise ValueError(f"{section}.temperature=0 is greedy: {why}; set it to {LOWEST_TEMPERATURE} or more")

    @model_validator(mode="after")
    def _can_be_sampled(self) -> "SamplingConfig":
        if 0 < self.temperature < LOWEST_TEMPERATURE:
            raise ValueError(
                f"temperature={self.temperature:g}: the sampler raises what is below {LOWEST_TEMPERATURE} to it, and "
                f"log-probabilities would be of another distribution; set it to {LOWEST_TEMPERATURE} or more, or to 0 "
                "for greedy responses"
            )
        if self.greedy and self.top_p < 1:
            raise ValueError(f"top_p={self.top_p:g} has no effect with temperature=0; leave one of them out")
        return self


class CriticConfig(LearnerConfig):
    model: ModelConfig | None = None
    """Reward model that the critic starts from; `null` = the first of `rewards`, else the policy with a new head."""


class GeneratorConfig(Section):
    gpu_memory_utilization: float = Field(0.6, gt=0, lt=1)
    tensor_parallel_size: PositiveInt = 1
    max_num_seqs: PositiveInt = 128
    cpu_kv_cache_gb: PositiveInt = 1
    enforce_eager: bool = True
    block_size: PositiveInt | None = None
    """Tokens in a block of the sampler's cache: a group's prompt is computed once for as much of it as fills blocks.
    `null` = 32 on CPUs (vLLM's own 128 there is longer than most prompts), vLLM's choice on GPUs."""
    bucket_mb: PositiveInt = 256
    """Most bytes of weights in flight at once."""
    max_media_per_prompt: PositiveInt = 16
    """Most images, sounds or clips, of each kind, in one prompt; the sampler reserves memory for as many."""

    @property
    def most_media(self) -> MostMedia:
        return MostMedia("generator.max_media_per_prompt", self.max_media_per_prompt)


class Placement(Section):
    """How many actors each role has, what each reserves, and how they are spread."""

    strategy: Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"] = "PACK"
    generator: RolePlacement = RolePlacement()
    scorer: RolePlacement = RolePlacement()
    functions: Resources = Resources()
    """Reward functions, remote rewards and judges; one actor."""
    reference: RolePlacement = RolePlacement()
    policy: LearnerPlacement = LearnerPlacement()
    critic: LearnerPlacement = LearnerPlacement()
    encoder: Resources = Resources()

    def of(self, *roles: str) -> dict[str, Resources]:
        """Role → what its actors reserve."""
        return {role: getattr(self, role) for role in roles}


def longest(data: DataConfig, sampling: SamplingConfig) -> Longest:
    tokens = data.max_prompt_tokens + sampling.max_response_tokens
    return Longest("data.max_prompt_tokens + sampling.max_response_tokens", tokens)


class RewardedConfig(RunConfig):
    """Keys of the jobs that score responses with a mixture of rewards."""

    rewards: tuple[Reward, ...] = ()

    @property
    def model_rewards(self) -> tuple[ModelReward, ...]:
        return tuple(r for r in self.rewards if isinstance(r, ModelReward))

    @property
    def function_rewards(self) -> tuple[FunctionReward | RemoteReward | JudgeReward, ...]:
        """Rewards that the `functions` actor computes."""
        return tuple(r for r in self.rewards if isinstance(r, FunctionReward | RemoteReward | JudgeReward))

    def _scoring(self, most: Longest) -> dict[str, ModelUse]:
        return {
            f"rewards.{reward.name}.model": ModelUse(reward.model, scores=True, reads=most)
            for reward in self.model_rewards
        }

    @model_validator(mode="after")
    def _one_name_each(self) -> "RewardedConfig":
        names = [r.name for r in self.rewards]
        if len(set(names)) < len(names):
            raise ValueError(f"rewards: names must be unique, got {names}")
        return self


class PPOConfig(RewardedConfig):
    """Online training of a policy: PPO, GRPO and every other choice of `algorithm`."""

    policy: ModelConfig
    """Where the policy starts; also the reference, unless `reference` is given."""
    reference: ModelConfig | None = None
    """Another model to stay close to: a teacher, for on-policy distillation."""
    rewards: tuple[Reward, ...] = ()
    """Components that score responses; may be empty for distillation, where the KL to the reference is all there is."""
    data: DataConfig
    steps: PositiveInt = 100
    algorithm: AlgorithmConfig = AlgorithmConfig()
    stream: StreamConfig = StreamConfig()
    sampling: SamplingConfig = SamplingConfig()
    generator: GeneratorConfig = GeneratorConfig()
    learner: LearnerConfig = LearnerConfig()
    critic: CriticConfig = CriticConfig()
    score_micro_batch_tokens: PositiveInt = 8192
    """Most tokens in one forward pass of a scorer or reference server."""
    placement: Placement = Placement()
    rollouts_logged: int = Field(64, ge=0)
    """Responses of each step that are written to `<run>/rollouts`."""
    parity_gate: PositiveFloat = 1e-4
    """At step 0 the sampler's and the learner's logprobs may differ by at most this (use 0.1 in bfloat16)."""

    @property
    def roles(self) -> Mapping[str, Resources]:
        has = {
            "encoder": True,
            "generator": True,
            "scorer": bool(self.model_rewards),
            "functions": bool(self.function_rewards),
            # With an adapter the policy itself answers for the reference: the adapter is switched off.
            "reference": self.learner.lora is None,
            "policy": True,
            "critic": self.algorithm.has_critic,
        }
        return self.placement.of(*(role for role, wanted in has.items() if wanted))

    @property
    def models(self) -> Mapping[str, ModelUse]:
        most = longest(self.data, self.sampling)
        found = {"policy": ModelUse(self.policy, reads=most)}
        found |= {"reference": ModelUse(self.reference, reads=most)} if self.reference else {}
        found |= self._scoring(most)
        if self.critic.model and "critic" in self.roles:
            found["critic.model"] = ModelUse(self.critic.model, any_head=True, reads=most)
        return found

    @property
    def trained(self) -> Mapping[str, LearnerUse]:
        policy = {"learner": LearnerUse(self.policy, self.learner, scalar=False)}
        if "critic" not in self.roles:
            return policy
        return policy | {"critic": LearnerUse(self.critic_model, self.critic, scalar=True)}

    @property
    def records(self) -> Mapping[str, RecordsUse]:
        batch = ("algorithm.prompts_per_step", self.algorithm.prompts_per_step)
        return {"data": RecordsUse(self.data, "PROMPT", batch, most_media=self.generator.most_media)}

    @property
    def critic_model(self) -> ModelConfig:
        """Where the critic starts: a reward model, or the policy where there is none."""
        if self.critic.model is not None:
            return self.critic.model
        return self.model_rewards[0].model if self.model_rewards else self.policy

    def optimizer_steps(self, role: str) -> int:
        """Of a learner in all of the run; the policy's do not start before the critic's warm-up is over."""
        a = self.algorithm
        learning = self.steps - (a.critic_warmup_steps if role == "policy" else 0)
        return learning * a.ppo_epochs * (a.prompts_per_step * a.n_samples_per_prompt // a.mini_batch_size)

    def _check_schedules(self) -> None:
        warmup = self.algorithm.critic_warmup_steps
        if warmup >= self.steps:
            raise ValueError(
                f"algorithm.critic_warmup_steps={warmup} is not below steps={self.steps}: the policy would never be "
                "trained; lower it"
            )
        for role, section, optimizer in (
            ("policy", "learner.optimizer", self.learner.optimizer),
            ("critic", "critic.optimizer", self.critic.optimizer),
        ):
            if optimizer.warmup_steps and role in self.roles:
                optimizer.refuse_long_warmup(
                    self.optimizer_steps(role), section, f"the {role}, with steps={self.steps}"
                )

    @model_validator(mode="after")
    def _agrees(self) -> "PPOConfig":
        a = self.algorithm
        self._check_schedules()
        self.sampling.refuse_greedy("a policy learns from responses that differ")
        samples = a.prompts_per_step * a.n_samples_per_prompt
        if samples % a.mini_batch_size:
            raise ValueError(
                f"algorithm.prompts_per_step × n_samples_per_prompt = {samples} must be a multiple of "
                f"algorithm.mini_batch_size={a.mini_batch_size}"
            )
        for role in set(self.roles) & {"policy", "critic"}:
            ranks = getattr(self.placement, role).replicas
            if a.mini_batch_size < ranks:
                raise ValueError(
                    f"algorithm.mini_batch_size={a.mini_batch_size} gives some of the "
                    f"placement.{role}.replicas={ranks} ranks no response"
                )
        if not self.rewards and (self.reference is None or not a.kl_coef):
            raise ValueError("rewards is empty: give a reward, or a `reference` to distil from and a kl_coef above 0")
        if a.dynamic_sampling and all(isinstance(r, FluencyReward) for r in self.rewards):
            raise ValueError("algorithm.dynamic_sampling needs a reward other than fluency, which always differs")
        self.stream.check_algorithm(a, adapter=self.learner.lora is not None)
        if self.reference is not None and self.learner.lora is not None:
            raise ValueError("learner.lora makes the adapter-less policy the reference; leave `reference` out")
        if a.overlong and a.overlong.buffer_tokens >= self.sampling.max_response_tokens:
            raise ValueError(
                f"algorithm.overlong.buffer_tokens={a.overlong.buffer_tokens} must be below "
                f"sampling.max_response_tokens={self.sampling.max_response_tokens}"
            )
        if self.sampling.top_p != 1.0:
            raise ValueError(f"sampling.top_p={self.sampling.top_p}: the learner models top_p=1 only; set it to 1")
        return self
