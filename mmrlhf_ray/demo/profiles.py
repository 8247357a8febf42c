"""The configurations of the demo's jobs: full size, and a fast one that runs every stage but learns little."""

from dataclasses import dataclass
from pathlib import Path

from mmrlhf_ray.config import (
    AlgorithmConfig,
    CheckpointConfig,
    CriticConfig,
    DataConfig,
    DeadlineConfig,
    EngineConfig,
    EvaluateConfig,
    LearnerConfig,
    LearnerPlacement,
    ModelConfig,
    ModelReward,
    OptimizerConfig,
    Placement,
    PPOConfig,
    Resources,
    RewardModelConfig,
    RolePlacement,
    SamplingConfig,
    SFTConfig,
)
from mmrlhf_ray.demo.data import FAST, FULL, Sizes

FACTS = "facts"
COMPARE_DIR = "compare"
"""Below a demo's root: what `python -m benchmarks.compare` trains and finds."""
_MAX_PROMPT_TOKENS = 64
_SAMPLING = SamplingConfig(max_response_tokens=24)
# On a small model a pass costs more than the padding it saves.
_ENGINE = EngineConfig(zero_stage=1, micro_batch_tokens=4096, max_padding_share=0.3)
# Eight actors on two cores work in turns, so each reserves a fifth of one.
_ONE, _PAIR = RolePlacement(num_cpus=0.2), LearnerPlacement(num_cpus=0.2, replicas=2)
_PLACEMENT = Placement(
    generator=_ONE,
    scorer=_ONE,
    functions=Resources(num_cpus=0.2),
    reference=_ONE,
    policy=_PAIR,
    critic=_PAIR,
    encoder=Resources(num_cpus=0.2),
)
_DEADLINES = DeadlineConfig(placement_s=60.0)


@dataclass(frozen=True)
class Paths:
    """Where the demo keeps what passes between its stages."""

    root: Path

    @property
    def base(self) -> Path:
        return self.root / "base"

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def preferences(self) -> Path:
        return self.data / "preferences"

    @property
    def preferences_heldout(self) -> Path:
        return self.data / "preferences_heldout"

    @property
    def annotations(self) -> Path:
        return self.data / "annotations.parquet"

    def model(self, stage: str) -> ModelConfig:
        """The model that a stage exported."""
        return ModelConfig(path=str(self.root / stage / "model"))


@dataclass(frozen=True)
class Profile:
    """How much of everything."""

    name: str
    sizes: Sizes
    sft_steps: int
    samples_per_prompt: int
    """Responses to each training prompt, of which pairs are chosen."""
    pairs_per_prompt: int
    reward_model_epochs: int
    ppo_steps: int
    prompts_per_step: int


FULL_PROFILE = Profile(
    "full",
    FULL,
    sft_steps=400,
    samples_per_prompt=8,
    pairs_per_prompt=3,
    reward_model_epochs=2,
    ppo_steps=80,
    prompts_per_step=64,
)
FAST_PROFILE = Profile(
    "fast",
    FAST,
    sft_steps=60,
    samples_per_prompt=4,
    pairs_per_prompt=2,
    reward_model_epochs=1,
    ppo_steps=6,
    prompts_per_step=32,
)


def _prompts(path: Path) -> DataConfig:
    return DataConfig(path=str(path), facts_column=FACTS, max_prompt_tokens=_MAX_PROMPT_TOKENS)


def sft(paths: Paths, profile: Profile, seed: int) -> SFTConfig:
    """Supervised fine-tuning of the random base model on the demonstrations."""
    return SFTConfig(
        name="sft",
        output_dir=str(paths.root),
        seed=seed,
        device="cpu",
        model=ModelConfig(path=str(paths.base)),
        data=DataConfig(path=str(paths.data / "demonstrations"), max_prompt_tokens=_MAX_PROMPT_TOKENS),
        learner=LearnerConfig(
            engine=_ENGINE,
            optimizer=OptimizerConfig(lr=2e-3, warmup_steps=50, schedule="cosine", weight_decay=0.01),
        ),
        workers=_PAIR,
        batch_size=64,
        steps=profile.sft_steps,
        checkpoint=CheckpointConfig(every_steps=250, keep=1),
    )


def sample(paths: Paths, profile: Profile, seed: int) -> EvaluateConfig:
    """Responses of the SFT policy to the training prompts, for annotators to compare."""
    return EvaluateConfig(
        name="sample",
        output_dir=str(paths.root),
        seed=seed,
        device="cpu",
        policy=paths.model("sft"),
        data=_prompts(paths.data / "prompts_train"),
        sampling=_SAMPLING,
        placement=_PLACEMENT,
        deadlines=_DEADLINES,
        n_samples_per_prompt=profile.samples_per_prompt,
        ablate_media=False,
    )


def reward_model(paths: Paths, profile: Profile, seed: int) -> RewardModelConfig:
    """The SFT model with a scalar head, on the annotators' preferences; it also reads the facts."""
    return RewardModelConfig(
        name="reward-model",
        output_dir=str(paths.root),
        seed=seed,
        device="cpu",
        model=paths.model("sft"),
        data=_prompts(paths.preferences),
        eval_data=_prompts(paths.preferences_heldout),
        eval_every_steps=50,
        learner=LearnerConfig(
            engine=_ENGINE,
            optimizer=OptimizerConfig(lr=1e-3, warmup_steps=20, schedule="cosine", weight_decay=0.01),
        ),
        workers=_PAIR,
        batch_size=64,
        epochs=profile.reward_model_epochs,
        center_coef=0.01,
        checkpoint=CheckpointConfig(every_steps=200, keep=1),
    )


def proxy(paths: Paths) -> ModelReward:
    """The reward model, a proxy for the gold reward."""
    return ModelReward(name="reward_model", kind="model", model=paths.model("reward-model"))


def ppo(paths: Paths, profile: Profile, seed: int) -> PPOConfig:
    """PPO of the SFT policy against the reward model."""
    return PPOConfig(
        name="ppo",
        output_dir=str(paths.root),
        seed=seed,
        device="cpu",
        policy=paths.model("sft"),
        rewards=(proxy(paths),),
        data=_prompts(paths.data / "prompts_train"),
        sampling=_SAMPLING,
        steps=profile.ppo_steps,
        algorithm=AlgorithmConfig(
            kl_coef=0.1,
            kl_target=1.0,
            kl_horizon=2000.0,
            prompts_per_step=profile.prompts_per_step,
            n_samples_per_prompt=2,
            mini_batch_size=profile.prompts_per_step,
            critic_warmup_steps=2,
        ),
        learner=LearnerConfig(engine=_ENGINE, optimizer=OptimizerConfig(lr=2e-4, warmup_steps=5)),
        critic=CriticConfig(engine=_ENGINE, optimizer=OptimizerConfig(lr=5e-4, warmup_steps=5)),
        placement=_PLACEMENT,
        deadlines=_DEADLINES,
        checkpoint=CheckpointConfig(every_steps=25, keep=2),
    )


def evaluate(paths: Paths, profile: Profile, seed: int) -> EvaluateConfig:
    """Held-out answers of PPO against SFT."""
    return EvaluateConfig(
        name="evaluate",
        output_dir=str(paths.root),
        seed=seed,
        device="cpu",
        policy=paths.model("ppo"),
        baseline=paths.model("sft"),
        reward_model=paths.model("reward-model"),
        data=_prompts(paths.data / "prompts_heldout"),
        sampling=_SAMPLING,
        placement=_PLACEMENT,
        deadlines=_DEADLINES,
    )
