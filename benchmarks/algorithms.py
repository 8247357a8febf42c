"""Every algorithm on Omni-Digits, from the same SFT policy: the jobs in jobs/demo-*.yaml, for a demo run anywhere."""

from pathlib import Path
from typing import Any

from mmrlhf_ray.config import JobKind, PPOConfig, PreferenceConfig, load_config
from mmrlhf_ray.demo.profiles import Paths

ONLINE = ("grpo", "rloo", "reinforce-pp", "dr-grpo", "dapo", "gspo")
OFFLINE = ("dpo", "kto", "ipo", "orpo", "simpo", "mpo")
NAMES = ("ppo", *ONLINE, *OFFLINE)

_JOBS = Path(__file__).parents[1] / "jobs"
_ROOT = "runs/demo"
"""Where the files look for the demo's models and data."""


def online(name: str, paths: Paths, seed: int) -> PPOConfig:
    """jobs/demo-<name>.yaml of one of ONLINE, or "ppo", on the models and data below `paths`."""
    return PPOConfig.model_validate(_values(name, JobKind.PPO, paths, seed))


def offline(name: str, paths: Paths, seed: int) -> PreferenceConfig:
    """jobs/demo-<name>.yaml of one of OFFLINE, on the pairs that the reward model learns from."""
    return PreferenceConfig.model_validate(_values(name, JobKind.PREFERENCE, paths, seed))


def _values(name: str, kind: JobKind, paths: Paths, seed: int) -> dict[str, Any]:
    cfg = load_config(_JOBS / f"demo-{name}.yaml", [f"seed={seed}"], kind.config)
    values: dict[str, Any] = _below(cfg.model_dump(exclude_unset=True), str(paths.root))
    return values


def _below(value: Any, root: str) -> Any:
    """`value` with `root` in the place of the directory that the files name."""
    if isinstance(value, dict):
        return {key: _below(inner, root) for key, inner in value.items()}
    if isinstance(value, tuple):
        return tuple(_below(inner, root) for inner in value)
    if isinstance(value, str) and (value == _ROOT or value.startswith(f"{_ROOT}/")):
        return root + value.removeprefix(_ROOT)
    return value
