"""The smallest environment there is, and jobs on it: a point on a line that should go to one place."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete

from mmrlhf_ray.config import BehaviourConfig

GOAL = 0.5
STEPS = 20
_STRIDE = 0.1


class Line(gymnasium.Env[np.ndarray, Any]):
    """Left, stay, right from a random place; the true reward is minus the distance to GOAL."""

    observation_space = Box(-1.0, 1.0, (1,), np.float32)
    action_space = Discrete(3)
    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 -- Gymnasium's

    def __init__(self, render_mode: str | None = None, ends: bool = False) -> None:
        self.render_mode, self._ends = render_mode, ends

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.place, self._steps = float(self.np_random.uniform(-1, 1)), 0
        return self._seen(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.place = float(np.clip(self.place + (int(action) - 1) * _STRIDE, -1.0, 1.0))
        self._steps += 1
        ended = self._ends and abs(self.place) >= 1.0
        said = {"moved": float(int(action) != 1)}
        return self._seen(), -abs(self.place - GOAL), ended, self._steps >= STEPS, said

    def render(self) -> np.ndarray:
        picture = np.zeros((16, 64, 3), np.uint8)
        picture[:, round((self.place + 1) / 2 * 60) : round((self.place + 1) / 2 * 60) + 4] = 255
        return picture

    def _seen(self) -> np.ndarray:
        return np.array([self.place], np.float32)


if "Line-v0" not in gymnasium.registry:  # this file is also loaded as a file of judges
    gymnasium.register("Line-v0", f"{__name__}:Line")


def judge(left: Sequence[Mapping[str, Any]], right: Sequence[Mapping[str, Any]]) -> str:
    """Prefers to be on the left, which no reward says."""
    a, b = (np.mean([state["observation"]["state"][0] for state in states]) for states in (left, right))
    return "tie" if a == b else "left" if a < b else "right"


def measure(states: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Where an episode ends."""
    return {"last place": float(states[-1]["observation"]["state"][0])}


def facts(env: Line) -> dict[str, float]:
    """What the observation does not say, here the same."""
    return {"place": env.place}


def job(output_dir: Path | str = "/tmp", **keys: Any) -> BehaviourConfig:
    """A job of a few small steps."""
    values: dict[str, Any] = {
        "name": "line",
        "output_dir": str(output_dir),
        "environment": {"id": "tests.unit.behaviour_tiny:Line-v0"},
        "segments": {"steps": 5},
        "ask": {"pairs": 60, "first": 30},
        "reward_model": {"hidden": [16], "first_updates": 60, "updates": 20},
        "net": {"hidden": [16]},
        "algorithm": {"kind": "ppo", "mini_batch_size": 64, "ppo_epochs": 4, "entropy_coef": 0.0, "lr": 0.01},
        "steps": 4,
        "decisions_per_step": 400,
        "env_runners": {"envs": 4},
        "evaluation": {"episodes": 4, "worst": 1},
        "checkpoint": {"every_steps": 1},
        "track": [],
    }
    return BehaviourConfig.model_validate_json(json.dumps(values | keys), strict=True)
