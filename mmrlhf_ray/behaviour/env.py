"""Any Gymnasium environment as RLlib runs it here: named modalities, actions from −1 to 1, and segments recorded.

The reward that RLlib gets is the cost of the step, never the environment's own, which only the record has.
"""

from collections import deque
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from PIL import Image

from mmrlhf_ray.behaviour.facts import FactsOf
from mmrlhf_ray.behaviour.segments import Facts, Recorded, Replay, Segment
from mmrlhf_ray.behaviour.spaces import PICTURE, Observation, check_actions, modalities, named
from mmrlhf_ray.config.behaviour import BehaviourConfig
from mmrlhf_ray.environments.gym import render_without_screen
from mmrlhf_ray.errors import ConfigError

TRUE_RETURN, COST = "true return", "cost"
"""Keys of the last `info` of an episode: sum of true rewards, mean cost of a step."""
_ACTION = "action"
_MINATAR = "MinAtar/"
_SEEDS = 2**31


class RecordedEnv(gymnasium.Env[Observation, Any]):
    """One environment. Raises ConfigError where it cannot be made, or is not of a kind that can be learned."""

    observation_space: gymnasium.spaces.Dict
    action_space: Discrete[Any] | Box

    def __init__(self, cfg: BehaviourConfig, *, record: int | None = None, render: bool = False) -> None:
        """record: steps of a segment, by default the configuration's. render: whether frame() will be asked for."""
        section = self._section = cfg.environment
        self._cost_of = None if cfg.cost is None else cfg.cost.of
        self._true = cfg.learn_from == "environment"
        self._length = record or cfg.segments.steps
        self._facts = None if section.facts is None else FactsOf(section.facts, section.facts_s)
        self._own = _make(cfg, render or section.picture is not None)
        space = modalities(self._own.observation_space)
        if section.picture is not None:
            shape = (section.picture.height, section.picture.width, 3)
            space = gymnasium.spaces.Dict({**space.spaces, PICTURE: Box(0, 255, shape, np.uint8)})
        self.observation_space = space
        self._given = check_actions(self._own.action_space)
        numbered = isinstance(self._given, Discrete)
        self.action_space = self._given if numbered else Box(-1.0, 1.0, self._given.shape, np.float32)
        self._seeds = np.random.default_rng()
        self._seeded = False
        self._outbox: deque[Recorded] = deque(maxlen=cfg.segments.pool)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode of the next seed. The first seed given decides on all of them: RLlib may give it again."""
        if seed is not None and not self._seeded:
            self._seeds, self._seeded = np.random.default_rng(seed), True
        return self.begin(int(self._seeds.integers(_SEEDS))), {}

    def begin(self, seed: int) -> Observation:
        """Begin the episode of that seed."""
        self._seed, self._lives = seed, np.random.default_rng(seed)
        self._actions: list[Any] = []
        self._part: list[tuple[Observation, Any, float, float, Facts]] = []
        self._return = self._costs = 0.0
        self._now = self._anew()
        return self._now

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """The reward is the step's cost; with learn_from=environment it is the environment's own."""
        if isinstance(self._given, Discrete):
            taken: Any = int(action)
            kept: Any = np.int64(action)
        else:
            kept = np.clip(np.asarray(action, np.float32), -1.0, 1.0)
            taken = self._given.low + (kept + 1.0) * 0.5 * (self._given.high - self._given.low)
        observation, reward, terminated, truncated, info = self._own.step(taken)
        cost = self._cost(kept, info)
        facts = self._facts(self._own.unwrapped) if self._facts else {}
        self._actions.append(kept)
        self._part.append((self._now, kept, float(reward), cost, facts))
        self._return += float(reward)
        self._costs += cost
        if len(self._part) == self._length:
            self._outbox.append(self._recorded())
            self._part = []
        self._now = self._seen(observation)
        if (steps := self._section.episode_steps) is not None:
            if (terminated or truncated) and len(self._actions) < steps:
                self._now = self._anew()
            terminated, truncated = False, len(self._actions) >= steps
        said = {}
        if terminated or truncated:
            said = {TRUE_RETURN: self._return, COST: self._costs / len(self._actions)}
        return self._now, float(reward) if self._true else cost, bool(terminated), bool(truncated), said

    def take(self) -> list[Recorded]:
        """The segments recorded since the last call."""
        taken = list(self._outbox)
        self._outbox.clear()
        return taken

    def rest(self) -> Recorded | None:
        """The steps since the last complete segment; None where there are none."""
        return self._recorded() if self._part else None

    def frame(self) -> np.ndarray:
        """What is rendered now, uint8 [height, width, 3]. Raises ConfigError where the environment shows nothing."""
        shown: Any = self._own.render()
        if not isinstance(shown, np.ndarray) or shown.ndim != 3:
            raise ConfigError(f"environment.id={self._section.id}: it renders no pictures (render_mode rgb_array)")
        if shown.dtype != np.uint8:
            shown = (np.clip(shown, 0.0, 1.0) * 255).astype(np.uint8)
        return np.ascontiguousarray(shown[..., :3])

    def close(self) -> None:
        if self._facts:
            self._facts.close()
        self._own.close()

    def _anew(self) -> Observation:
        observation, _ = self._own.reset(seed=int(self._lives.integers(_SEEDS)))
        return self._seen(observation)

    def _seen(self, observation: Any) -> Observation:
        found = named(self._own.observation_space, observation)
        if (picture := self._section.picture) is not None:
            image = Image.fromarray(self.frame()).resize((picture.width, picture.height), Image.Resampling.BOX)
            found[PICTURE] = np.asarray(image)
        return found

    def _cost(self, action: Any, info: dict[str, Any]) -> float:
        if self._cost_of is None:
            return 0.0
        if self._cost_of == _ACTION:
            return float(np.square(action).mean())
        if self._cost_of not in info:
            raise ConfigError(f"cost.of={self._cost_of}: `info` of the environment has {', '.join(info) or 'nothing'}")
        return float(info[self._cost_of])

    def _recorded(self) -> Recorded:
        seen, actions, rewards, costs, facts = zip(*self._part, strict=True)
        return Recorded(
            Segment({name: np.stack([o[name] for o in seen]) for name in seen[0]}, np.stack(actions)),
            Replay(self._seed, np.stack(self._actions), len(actions)),
            np.array(rewards, np.float32),
            np.array(costs, np.float32),
            facts,
        )


def _make(cfg: BehaviourConfig, render: bool) -> gymnasium.Env[Any, Any]:
    render_without_screen()
    section = cfg.environment
    arguments = dict(section.arguments) | ({"render_mode": "rgb_array"} if render else {})
    try:
        if section.id.startswith(_MINATAR):
            from minatar.gym import register_envs  # which are not registered by being imported

            if f"{_MINATAR}Breakout-v1" not in gymnasium.registry:
                register_envs()
        return gymnasium.make(section.id, **arguments)
    except (gymnasium.error.Error, ImportError, TypeError) as error:
        raise ConfigError(
            f"environment.id={section.id}: it cannot be made: {error}; those of highway-env, MuJoCo and MinAtar come "
            'with pip install "mmrlhf-ray[behaviour]"'
        ) from error
