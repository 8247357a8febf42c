"""Reward-model training on preferences."""

from pathlib import Path

from mmrlhf_ray.config import RewardModelConfig
from mmrlhf_ray.pipelines.supervised import run_supervised
from mmrlhf_ray.schema import PREFERENCE
from mmrlhf_ray.training.tasks import RewardModelTask


def run(cfg: RewardModelConfig, resume: bool = False) -> Path:
    """Train and export to `<run>/model`; returns the run's directory. Raises as pipelines.ppo.run()."""
    task = RewardModelTask(cfg.label_smoothing, cfg.center_coef)
    return run_supervised(cfg, task, PREFERENCE, "reward_model", resume)
