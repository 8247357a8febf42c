"""One configuration per job."""

from typing import Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from mmrlhf_ray.config.base import (
    DataConfig,
    EngineConfig,
    LearnerPlacement,
    ModelConfig,
    OptimizerConfig,
    Resources,
    RolePlacement,
    RunConfig,
    Section,
    TrainJobConfig,
)


class SFTConfig(TrainJobConfig):
    """Supervised fine-tuning on DEMONSTRATION records."""


class RewardModelConfig(TrainJobConfig):
    """Bradley–Terry reward model on PREFERENCE records."""

    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    center_coef: float = Field(0.0, ge=0)
    """Weight of (r_chosen + r_rejected)², which keeps scores near zero (Eisenstein et al. 2023)."""


class SamplingConfig(Section):
    temperature: PositiveFloat = 1.0
    top_p: float = Field(1.0, gt=0, le=1)
    max_response_tokens: PositiveInt = 64


class AlgorithmConfig(Section):
    """PPO. Names are those of the glossary."""

    gamma: float = Field(1.0, ge=0, le=1)
    gae_lambda: float = Field(0.95, ge=0, le=1)
    kl_coef: NonNegativeFloat = 0.05
    kl_target: PositiveFloat | None = None
    """KL per response in nats that the adaptive controller steers to; none = fixed `kl_coef`."""
    kl_horizon: PositiveFloat = 10_000.0
    """Samples over which the adaptive controller reacts (Ziegler et al. 2019)."""
    kl_estimator: Literal["k1", "k2", "k3"] = "k1"
    clip_range: float = Field(0.2, gt=0, lt=1)
    value_clip_range: PositiveFloat = 0.2
    vf_coef: PositiveFloat = 1.0
    """Factor on the value loss. The critic has an optimizer of its own, so it scales the critic's gradient only."""
    entropy_coef: NonNegativeFloat = 0.0
    whiten_advantages: bool = True
    score_clip: PositiveFloat | None = None
    """Scores are clipped to ± this."""
    n_samples_per_prompt: PositiveInt = 1
    prompts_per_step: PositiveInt = 64
    ppo_epochs: PositiveInt = 1
    mini_batch_size: PositiveInt = 64
    """Responses per optimizer step over all ranks."""
    critic_warmup_steps: int = Field(0, ge=0)
    """Steps in which only the critic learns."""


class LearnerConfig(Section):
    engine: EngineConfig = EngineConfig()
    optimizer: OptimizerConfig = OptimizerConfig()


class GeneratorConfig(Section):
    gpu_memory_utilization: float = Field(0.6, gt=0, lt=1)
    tensor_parallel_size: PositiveInt = 1
    max_num_seqs: PositiveInt = 128
    cpu_kv_cache_gb: PositiveInt = 1
    enforce_eager: bool = True
    bucket_mb: PositiveInt = 256
    """Most bytes of weights in flight at once."""


class Placement(Section):
    """How many actors each role has, what each reserves, and how they are spread."""

    strategy: Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"] = "PACK"
    generator: RolePlacement = RolePlacement()
    scorer: RolePlacement = RolePlacement()
    reference: RolePlacement = RolePlacement()
    policy: LearnerPlacement = LearnerPlacement()
    critic: LearnerPlacement = LearnerPlacement()
    encoder: Resources = Resources()


class PPOConfig(RunConfig):
    policy: ModelConfig
    """Where the policy starts; also the reference."""
    reward_model: ModelConfig
    """Scores responses; the critic starts from it."""
    data: DataConfig
    steps: PositiveInt = 100
    algorithm: AlgorithmConfig = AlgorithmConfig()
    sampling: SamplingConfig = SamplingConfig()
    generator: GeneratorConfig = GeneratorConfig()
    learner: LearnerConfig = LearnerConfig()
    critic: LearnerConfig = LearnerConfig()
    score_micro_batch_tokens: PositiveInt = 8192
    """Most tokens in one forward pass of a scorer or reference server."""
    placement: Placement = Placement()
    rollouts_logged: int = Field(64, ge=0)
    """Responses of each step that are written to `<run>/rollouts`."""
    parity_gate: PositiveFloat = 1e-4
    """At step 0 the sampler's and the learner's logprobs may differ by at most this (use 0.1 in bfloat16)."""

    @model_validator(mode="after")
    def _arithmetic(self) -> "PPOConfig":
        a = self.algorithm
        samples = a.prompts_per_step * a.n_samples_per_prompt
        if samples % a.mini_batch_size:
            raise ValueError(
                f"algorithm.prompts_per_step × n_samples_per_prompt = {samples} must be a multiple of "
                f"algorithm.mini_batch_size={a.mini_batch_size}"
            )
        for role in ("policy", "critic"):
            ranks = getattr(self.placement, role).replicas
            if a.mini_batch_size < ranks:
                raise ValueError(
                    f"algorithm.mini_batch_size={a.mini_batch_size} gives some of the "
                    f"placement.{role}.replicas={ranks} ranks no response"
                )
        if self.sampling.top_p != 1.0:
            raise ValueError(f"sampling.top_p={self.sampling.top_p}: the learner models top_p=1 only; set it to 1")
        return self


class EvaluateConfig(RunConfig):
    """Responses of one or several policies to held-out prompts, scored."""

    policy: ModelConfig
    baseline: ModelConfig | None = None
    """Policy to compare with, usually the SFT model."""
    reward_model: ModelConfig | None = None
    data: DataConfig
    sampling: SamplingConfig = SamplingConfig()
    generator: GeneratorConfig = GeneratorConfig()
    score_micro_batch_tokens: PositiveInt = 8192
    placement: Placement = Placement()
    n_samples_per_prompt: PositiveInt = 1
    ablate_media: bool = True
    """Also answer with each prompt's media swapped for another prompt's of the same task."""
