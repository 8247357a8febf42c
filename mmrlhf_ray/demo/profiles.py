"""The demo's jobs: those of jobs/demo-*.yaml, below any root, in full size or so short that figures mean nothing."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from mmrlhf_ray.config import (
    EvaluateConfig,
    ModelConfig,
    ModelReward,
    PPOConfig,
    RewardModelConfig,
    RunConfig,
    SFTConfig,
    load_config,
)
from mmrlhf_ray.demo.data import FAST, FULL, Sizes

JOBS = Path(__file__).with_name("jobs")
"""The files of jobs/ that the demo runs, in an installation too."""
COMPARE_DIR = "compare"
"""Below a demo's root: what `python -m benchmarks.compare` trains and finds."""
_ROOT = "runs/demo"
"""Where the files look for the demo's models and data."""

C = TypeVar("C", bound=RunConfig)


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
    samples_per_prompt: int
    """Responses to each training prompt, of which pairs are chosen."""
    pairs_per_prompt: int
    sft: Sequence[str] = ()
    """Overrides of jobs/demo-sft.yaml, as on the command line; likewise below."""
    reward_model: Sequence[str] = ()
    ppo: Sequence[str] = ()


FULL_PROFILE = Profile("full", FULL, samples_per_prompt=8, pairs_per_prompt=3)
FAST_PROFILE = Profile(
    "fast",
    FAST,
    samples_per_prompt=4,
    pairs_per_prompt=2,
    sft=("steps=60",),
    reward_model=("epochs=1", "learner.optimizer.warmup_steps=5"),
    ppo=("steps=6", "algorithm.prompts_per_step=32", "algorithm.mini_batch_size=32", "weights.transport=gloo"),
)


def load_below(file: Path, kind: type[C], paths: Paths, overrides: Sequence[str]) -> C:
    """The job in `file`, whose paths below runs/demo are taken below `paths.root` instead. Raises ConfigError."""
    cfg = load_config(file, overrides, kind)
    return kind.model_validate(_below(cfg.model_dump(exclude_unset=True), str(Path.cwd() / _ROOT), str(paths.root)))


def _below(value: Any, old: str, new: str) -> Any:
    """Every path below `old` as the same below `new`."""
    if isinstance(value, dict):
        return {key: _below(inner, old, new) for key, inner in value.items()}
    if isinstance(value, tuple):
        return tuple(_below(inner, old, new) for inner in value)
    if isinstance(value, str) and (value == old or value.startswith(f"{old}/")):
        return new + value.removeprefix(old)
    return value


def sft(paths: Paths, profile: Profile, seed: int) -> SFTConfig:
    """Supervised fine-tuning of the random base model on the demonstrations."""
    return load_below(JOBS / "demo-sft.yaml", SFTConfig, paths, [*profile.sft, f"seed={seed}"])


def sample(paths: Paths, profile: Profile, seed: int) -> EvaluateConfig:
    """Responses of the SFT policy to the training prompts, for annotators to compare."""
    changes = [
        "name=sample",
        f"policy.path={_ROOT}/sft/model",
        "baseline=null",
        "reward_model=null",
        f"data.path={_ROOT}/data/prompts_train",
        f"n_samples_per_prompt={profile.samples_per_prompt}",
        "ablate_media=false",
    ]
    return load_below(JOBS / "demo-evaluate.yaml", EvaluateConfig, paths, [*changes, f"seed={seed}"])


def reward_model(paths: Paths, profile: Profile, seed: int) -> RewardModelConfig:
    """The SFT model with a scalar head, on the annotators' preferences; it also reads the facts."""
    overrides = [*profile.reward_model, f"seed={seed}"]
    return load_below(JOBS / "demo-reward-model.yaml", RewardModelConfig, paths, overrides)


def proxy(paths: Paths) -> ModelReward:
    """The reward model, a proxy for the gold reward."""
    return ModelReward(name="reward_model", kind="model", model=paths.model("reward-model"))


def ppo(paths: Paths, profile: Profile, seed: int) -> PPOConfig:
    """PPO of the SFT policy against the reward model."""
    return load_below(JOBS / "demo-ppo.yaml", PPOConfig, paths, [*profile.ppo, f"seed={seed}"])


def evaluate(paths: Paths, seed: int) -> EvaluateConfig:
    """Held-out answers of PPO against SFT."""
    return load_below(JOBS / "demo-evaluate.yaml", EvaluateConfig, paths, [f"seed={seed}"])
