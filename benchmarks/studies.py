"""Runs that show what goes wrong without a control, and that the control works."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
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

_Rewards = Callable[[Paths], list[dict[str, Any]]]


def few_pairs_root(paths: Paths) -> Path:
    """Where the reward model of few pairs and its data are."""
    return paths.root / COMPARE_DIR / "few-pairs"


def _proxy(paths: Paths) -> list[dict[str, Any]]:
    return [profiles.proxy(paths).model_dump()]


def _few_pairs_proxy(paths: Paths) -> list[dict[str, Any]]:
    model = ModelConfig(path=str(few_pairs_root(paths) / "reward-model" / "model"))
    return [ModelReward(name="reward_model", kind="model", model=model).model_dump()]


def _no_rewards(paths: Paths) -> list[dict[str, Any]]:
    return []


def _proxy_and_length(paths: Paths) -> list[dict[str, Any]]:
    length = {
        "name": "length",
        "kind": "function",
        "function": f"{_LENGTH}:response_length",
        "cost": {
            "bound": MOST_TOKENS,
            "multiplier_lr": 0.005,
            "multiplier_damping": 0.1,
            "initial_multiplier": 0.2,
        },
    }
    return [*_proxy(paths), length]


@dataclass(frozen=True)
class _Study:
    """A run's changes to the demo's PPO."""

    changes: Mapping[str, Any]
    """Of the configuration, section by section."""
    rewards: _Rewards = _proxy
    teacher: bool = False
    """The demo's PPO policy takes the reference's place."""


_STUDIES: Mapping[str, _Study] = MappingProxyType(
    {
        "few-pairs-no-kl": _Study({"algorithm": {"kl_coef": 0.0, "kl_target": None}}, _few_pairs_proxy),
        "few-pairs-kl": _Study(
            {"algorithm": {"kl_coef": 0.2, "kl_target": 0.3, "kl_horizon": 1000.0}}, _few_pairs_proxy
        ),
        # Smaller steps at the end let cost and multiplier come to rest.
        "length-bound": _Study({"learner": {"optimizer": {"lr": 1e-4, "schedule": "linear"}}}, _proxy_and_length),
        # A token's advantage is how much likelier the teacher finds it.
        "distillation": _Study(
            {
                "algorithm": {
                    "advantage_estimator": "reinforce",
                    "gamma": 0.0,
                    "kl_coef": 1.0,
                    "kl_target": None,
                    "critic_warmup_steps": 0,
                }
            },
            _no_rewards,
            teacher=True,
        ),
        "lora": _Study({"learner": {"lora": {"rank": 8, "alpha": 16.0}, "optimizer": {"lr": 2e-3}}}),
    }
)
NAMES = tuple(_STUDIES)


def config(name: str, paths: Paths, profile: Profile, seed: int) -> PPOConfig:
    """The demo's PPO with what the study changes."""
    study, values = _STUDIES[name], profiles.ppo(paths, profile, seed).model_dump()
    for section, changes in study.changes.items():
        values[section] = _merged(values[section], changes)
    values |= {"name": name, "rewards": study.rewards(paths)}
    if study.teacher:
        values["reference"] = paths.model("ppo").model_dump()
    return PPOConfig.model_validate(values)


def _merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **values,
        **{k: _merged(values[k], v) if isinstance(values.get(k), dict) else v for k, v in changes.items()},
    }
