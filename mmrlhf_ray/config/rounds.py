"""The jobs of one round: configurations as a user would write them, and where each leaves what it makes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmrlhf_ray.config.base import MODEL_DIR, ModelConfig, RunConfig
from mmrlhf_ray.config.data import DataConfig, TextHooks
from mmrlhf_ray.config.iterate import IterateConfig
from mmrlhf_ray.config.judging import EvaluateConfig
from mmrlhf_ray.config.online import PPOConfig, SamplingConfig
from mmrlhf_ray.config.supervised import PreferenceConfig, RewardModelConfig

REWARD_NAME = "reward_model"
_SEEDS = 1000
"""Number of rounds with distinct seeds."""


@dataclass(frozen=True)
class RoundPaths:
    """Where a round keeps what passes between its stages. Round 0 has an evaluation only."""

    run_dir: Path
    number: int

    @property
    def root(self) -> Path:
        return self.run_dir / f"round-{self.number:02d}"

    @property
    def prompts(self) -> Path:
        """Records: what is sampled from."""
        return self.root / "prompts"

    @property
    def items(self) -> Path:
        """JSON lines: what is asked, as the server takes it."""
        return self.root / "items.jsonl"

    @property
    def annotations(self) -> Path:
        """ANNOTATION: every vote on this run's questions so far."""
        return self.root / "annotations.parquet"

    @property
    def preferences(self) -> Path:
        return self.root / "preferences"

    @property
    def preferences_heldout(self) -> Path:
        return self.root / "preferences-heldout"

    @property
    def reward_model(self) -> Path:
        """Directory of the job."""
        return self.root / "reward-model"

    @property
    def policy(self) -> Path:
        """Directory of the job that trains the policy."""
        return self.root / "policy"

    @property
    def evaluation(self) -> Path:
        """Directory of the job."""
        return self.root / "evaluate"


def first_round(cfg: IterateConfig) -> tuple[RunConfig, ...]:
    """The jobs of the first round in their order; what one of them makes is not there before it has run."""
    paths = RoundPaths(cfg.run_dir, 1)
    learning = (reward_model_job(cfg, paths, heldout=True), train_job(cfg, paths, heldout=True))
    return (sample_job(cfg, paths), *learning, evaluate_job(cfg, paths))


def policy_after(cfg: IterateConfig, run_dir: Path, number: int) -> ModelConfig:
    """The policy as round `number` leaves it; round 0 leaves the one that the loop starts with."""
    if not number:
        return cfg.policy
    return cfg.policy.model_copy(update={"path": str(RoundPaths(run_dir, number).policy / MODEL_DIR)})


def reward_model_after(cfg: IterateConfig, run_dir: Path, number: int) -> ModelConfig | None:
    """The reward model that there is after round `number`."""
    if not number:
        return cfg.reward_model.scorer
    base = cfg.reward_model.base or cfg.policy
    return base.model_copy(update={"path": str(RoundPaths(run_dir, number).reward_model / MODEL_DIR)})


def written(data: DataConfig, path: Path) -> DataConfig:
    """`data` for records that were read from it and written down by us: cleaned and checked already."""
    changes = {"path": str(path), "sources": (), "format": None, "split": None, "media_root": None, "text": TextHooks()}
    return data.model_copy(update=changes)


def sample_job(cfg: IterateConfig, paths: RoundPaths) -> EvaluateConfig:
    """Responses of the policy to the round's prompts."""
    policy = policy_after(cfg, paths.run_dir, paths.number - 1)
    return _answers(cfg, paths, "sample", policy, written(cfg.prompts, paths.prompts), cfg.sample.n_samples_per_prompt)


def scoring_job(cfg: IterateConfig, paths: RoundPaths, reward_model: ModelConfig, data: DataConfig) -> EvaluateConfig:
    """How responses to prompts of `data` are scored by `reward_model`."""
    job = _answers(cfg, paths, "score", cfg.policy, data, 1)
    return job.model_copy(update={"reward_model": reward_model})


def evaluate_job(cfg: IterateConfig, paths: RoundPaths) -> EvaluateConfig:
    """Responses of the round's policy to held-out prompts, always with the same seed."""
    policy = policy_after(cfg, paths.run_dir, paths.number)
    job = _answers(cfg, paths, "evaluate", policy, cfg.evaluate.data, cfg.evaluate.n_samples_per_prompt)
    changes = {
        "seed": cfg.seed,
        "reference": cfg.policy if paths.number else None,
        "reward_model": reward_model_after(cfg, paths.run_dir, paths.number),
    }
    return job.model_copy(update=changes)


def _answers(
    cfg: IterateConfig, paths: RoundPaths, name: str, policy: ModelConfig, data: DataConfig, samples: int
) -> EvaluateConfig:
    return EvaluateConfig(
        **_shared(cfg, paths, name),
        policy=policy,
        data=data,
        sampling=SamplingConfig(**cfg.sample.model_dump(include=set(SamplingConfig.model_fields))),
        generator=cfg.generator,
        score_micro_batch_tokens=cfg.score_micro_batch_tokens,
        placement=cfg.placement,
        n_samples_per_prompt=samples,
        ablate_media=False,
    )


def reward_model_job(cfg: IterateConfig, paths: RoundPaths, heldout: bool) -> RewardModelConfig:
    """Training on all preferences so far. `heldout`: whether there are any to measure it by."""
    again = cfg.reward_model.start == "previous" and paths.number > 1
    previous = reward_model_after(cfg, paths.run_dir, paths.number - 1) if again else None
    return RewardModelConfig.model_validate(
        cfg.reward_model.job
        | _shared(cfg, paths, paths.reward_model.name)
        | {
            "model": previous or cfg.reward_model.base or cfg.policy,
            "sampling": {"allow_tokens": cfg.sample.allow_tokens},
            "data": written(cfg.prompts, paths.preferences),
            "eval_data": written(cfg.prompts, paths.preferences_heldout) if heldout else None,
        }
    )


def train_job(cfg: IterateConfig, paths: RoundPaths, heldout: bool) -> PPOConfig | PreferenceConfig:
    """The job that trains the policy."""
    previous = {"previous": paths.number - 1, "first": 0}[cfg.train.start]
    start = policy_after(cfg, paths.run_dir, previous)
    # Without a separate reference a job uses its starting model, and checks that they are equal.
    reference = cfg.policy if previous else None
    shared = _shared(cfg, paths, paths.policy.name)
    if cfg.train.ppo is not None:
        keys = _ppo_defaults(cfg) | _ppo(cfg, paths) | shared
        job = PPOConfig.model_validate(keys | {"policy": start})
        if reference is None or not job.needs_reference:
            return job
        return PPOConfig.model_validate(keys | {"policy": start, "reference": reference})
    assert cfg.train.preference is not None, "the configuration has one of the two"
    unseen = {"facts_column": None}
    values = cfg.train.preference | shared | {
        "model": start,
        "sampling": {"allow_tokens": cfg.sample.allow_tokens},
        "data": written(cfg.prompts, paths.preferences).model_copy(update=unseen),
        "eval_data": written(cfg.prompts, paths.preferences_heldout).model_copy(update=unseen) if heldout else None,
    }  # fmt: skip
    return PreferenceConfig.model_validate(values | ({"reference": reference} if reference else {}))


def _ppo_defaults(cfg: IterateConfig) -> dict[str, Any]:
    return {
        "sampling": {
            "temperature": cfg.sample.temperature,
            "max_response_tokens": cfg.sample.max_response_tokens,
            "allow_tokens": cfg.sample.allow_tokens,
        },
        "generator": cfg.generator,
        "placement": cfg.placement,
        "score_micro_batch_tokens": cfg.score_micro_batch_tokens,
    }


def _ppo(cfg: IterateConfig, paths: RoundPaths) -> dict[str, Any]:
    keys = dict(cfg.train.ppo or {})
    reward = {
        "name": REWARD_NAME,
        "kind": "model",
        "model": reward_model_after(cfg, paths.run_dir, paths.number),
        "uncertainty_coef": cfg.train.uncertainty_coef,
    }
    return keys | {"rewards": [reward, *keys.get("rewards", ())], "data": cfg.prompts}


def _shared(cfg: IterateConfig, paths: RoundPaths, name: str) -> dict[str, Any]:
    return {
        "name": name,
        "output_dir": str(paths.root),
        "seed": cfg.seed * _SEEDS + paths.number,
        "device": cfg.device,
        "deadlines": cfg.deadlines,
    }
