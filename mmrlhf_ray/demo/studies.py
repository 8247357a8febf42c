"""Runs that show what goes wrong without a control, and that the control works."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mmrlhf_ray.config import ModelConfig, ModelReward, PPOConfig
from mmrlhf_ray.demo import profiles
from mmrlhf_ray.demo.profiles import COMPARE_DIR, Paths, Profile

FEW_PAIRS = 256
"""Preferences that the reward model of the over-optimisation runs has seen."""
FEW_PAIRS_EPOCHS = 6
FEW_PAIRS_RUNS = ("few-pairs-no-kl", "few-pairs-kl")
MOST_TOKENS = 8.0
"""Bound on the mean length in `length-bound`; without it PPO's answers grow longer."""

_LENGTH = Path(__file__).with_name("length_cost.py")

_STUDIES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "few-pairs-no-kl": {"algorithm": {"kl_coef": 0.0, "kl_target": None}},
        "few-pairs-kl": {"algorithm": {"kl_coef": 0.2, "kl_target": 0.3, "kl_horizon": 1000.0}},
        "length-bound": {},
        # The teacher is the demo's PPO policy; a token's advantage is how much likelier the teacher finds it.
        "distillation": {
            "algorithm": {
                "advantage_estimator": "reinforce",
                "gamma": 0.0,
                "kl_coef": 1.0,
                "kl_target": None,
                "critic_warmup_steps": 0,
            }
        },
        "lora": {"learner": {"lora": {"rank": 8, "alpha": 16.0}, "optimizer": {"lr": 2e-3}}},
    }
)
NAMES = tuple(_STUDIES)


def few_pairs_root(paths: Paths) -> Path:
    """Where the reward model of few pairs and its data are."""
    return paths.root / COMPARE_DIR / "few-pairs"


def config(name: str, paths: Paths, profile: Profile, seed: int) -> PPOConfig:
    """The demo's PPO with what the study changes."""
    values = profiles.ppo(paths, profile, seed).model_dump()
    for section, changes in _STUDIES[name].items():
        values[section] = _merged(values[section], changes)
    values |= {"name": name, "rewards": _rewards(name, paths)}
    if name == "distillation":
        values |= {"reference": paths.model("ppo").model_dump(), "rewards": []}
    return PPOConfig.model_validate(values)


def _merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **values,
        **{k: _merged(values[k], v) if isinstance(values.get(k), dict) else v for k, v in changes.items()},
    }


def _rewards(name: str, paths: Paths) -> list[dict[str, Any]]:
    proxy = profiles.proxy(paths)
    if name in FEW_PAIRS_RUNS:
        model = ModelConfig(path=str(few_pairs_root(paths) / "reward-model" / "model"))
        proxy = ModelReward(name="reward_model", kind="model", model=model)
    rewards = [proxy.model_dump()]
    if name == "length-bound":
        rewards.append(
            {
                "name": "length",
                "kind": "function",
                "function": f"{_LENGTH}:response_length",
                "cost": {
                    "bound": MOST_TOKENS,
                    "multiplier_lr": 0.005,
                    "multiplier_damping": 0.2,
                    "initial_multiplier": 0.2,
                },
            }
        )
    return rewards
