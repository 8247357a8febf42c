"""Supervised fine-tuning on demonstrations."""

from pathlib import Path

from mmrlhf_ray.config import SFTConfig
from mmrlhf_ray.pipelines.supervised import run_supervised
from mmrlhf_ray.schema import DEMONSTRATION
from mmrlhf_ray.training.tasks import SFTTask


def run(cfg: SFTConfig, resume: bool = False) -> Path:
    """Train and export to `<run>/model`; returns the run's directory. Raises as pipelines.ppo.run()."""
    return run_supervised(cfg, SFTTask(), DEMONSTRATION, "sft", resume)
