"""Every algorithm on Omni-Digits, from the same SFT policy: the jobs in jobs/demo-*.yaml, for a demo run anywhere."""

from pathlib import Path

from mmrlhf_ray.config import PPOConfig, PreferenceConfig
from mmrlhf_ray.demo.profiles import Paths, load_below

ONLINE = ("grpo", "rloo", "reinforce-pp", "dr-grpo", "dapo", "gspo")
OFFLINE = ("dpo", "kto", "ipo", "orpo", "simpo", "mpo")
NAMES = ("ppo", *ONLINE, *OFFLINE)

_JOBS = Path(__file__).parents[1] / "jobs"


def online(name: str, paths: Paths, seed: int) -> PPOConfig:
    """jobs/demo-<name>.yaml of one of ONLINE, or "ppo", on the models and data below `paths`."""
    return load_below(_JOBS / f"demo-{name}.yaml", PPOConfig, paths, [f"seed={seed}"])


def offline(name: str, paths: Paths, seed: int) -> PreferenceConfig:
    """jobs/demo-<name>.yaml of one of OFFLINE, on the pairs that the reward model learns from."""
    return load_below(_JOBS / f"demo-{name}.yaml", PreferenceConfig, paths, [f"seed={seed}"])
