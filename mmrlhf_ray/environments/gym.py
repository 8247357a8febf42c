"""An environment of Gymnasium: the policy's text is parsed to an action, a picture or text comes back."""

import json
import os
import re
from collections.abc import Mapping
from typing import Any

import gymnasium

from mmrlhf_ray.config.environment import GymnasiumEnvironment
from mmrlhf_ray.environments.parts import parts_of
from mmrlhf_ray.environments.protocol import Part, Start, Step
from mmrlhf_ray.environments.user import checked_reward
from mmrlhf_ray.errors import ConfigError

_PICTURE = "rgb_array"
_SEEDS = 2**31
_HEADLESS = {"MUJOCO_GL": "egl", "SDL_AUDIODRIVER": "dummy"}


def render_without_screen() -> None:
    """Tell renderers that there is no screen where there is none, unless the user has told them."""
    for name, value in _HEADLESS.items():
        if not os.environ.get("DISPLAY"):
            os.environ.setdefault(name, value)


class GymEnvironment:
    """One episode. A response without an action is told so and does not move the environment.

    Raises what `gymnasium.make` raises, and ConfigError for actions that the environment does not have.
    """

    def __init__(self, config: GymnasiumEnvironment):
        self._config = config
        arguments = dict(config.arguments)
        if config.show != "text":
            arguments.setdefault("render_mode", _PICTURE)
        render_without_screen()
        self._own: gymnasium.Env[Any, Any] = gymnasium.make(config.id, **arguments)
        for word, action in (config.actions or {}).items():
            if not self._own.action_space.contains(self._action(action)):
                raise ConfigError(f"actions.{word}: {action!r} is not in {self._own.action_space}")

    def reset(self, start: Start) -> tuple[Part, ...]:
        """The first observation."""
        observation, _ = self._own.reset(seed=start.seed % _SEEDS)
        return self._shown(observation)

    def step(self, response: str) -> Step:
        """Take the action that the response names."""
        try:
            action = self._parsed(response)
        except ValueError as error:
            return Step((f"No action: {error}.",), 0.0, False, str(error))
        observation, reward, terminated, truncated, _ = self._own.step(action)
        return Step(self._shown(observation), checked_reward(reward), terminated or truncated)

    def close(self) -> None:
        """Close the environment."""
        self._own.close()

    def _shown(self, observation: Any) -> tuple[Part, ...]:
        parts: tuple[Part, ...] = ()
        if self._config.show != "text":
            picture = parts_of(self._own.render())
            if not picture or isinstance(picture[0], str):
                raise ConfigError(f"{self._config.id} rendered no picture; set show: text")
            parts += picture
        if self._config.show != "picture":
            parts += (_text(observation, self._own.observation_space),)
        return parts

    def _parsed(self, response: str) -> Any:
        words = self._config.actions
        action = _json(response) if words is None else _last_word(response, words)
        try:
            made = self._action(action)
            known = self._own.action_space.contains(made)
        except (TypeError, ValueError, KeyError, IndexError, OverflowError):
            known = False
        if not known:
            raise ValueError(f"{json.dumps(action)} is not an action of {self._own.action_space}")
        return made

    def _action(self, value: Any) -> Any:
        (made,) = self._own.action_space.from_jsonable([value])
        return made


def try_environment(config: GymnasiumEnvironment) -> None:
    """Make it once and look at it: rendering may need packages of its own. Raises as GymEnvironment does."""
    made = GymEnvironment(config)
    made.reset(Start("", "", "[]", "{}", (), 0))
    made.close()


def _last_word(response: str, words: Mapping[str, Any]) -> Any:
    found = re.findall(rf"(?<!\w)(?:{'|'.join(map(re.escape, sorted(words, key=len, reverse=True)))})(?!\w)",
                       response, re.IGNORECASE)  # fmt: skip
    if not found:
        raise ValueError(f"say one of {', '.join(words)}")
    return {word.casefold(): action for word, action in words.items()}[found[-1].casefold()]


def _json(response: str) -> Any:
    try:
        return json.loads(response)
    except (ValueError, RecursionError):
        raise ValueError("the response must be the action as JSON, and nothing else") from None


def _text(observation: Any, space: "gymnasium.Space[Any]") -> str:
    if isinstance(observation, str):
        return observation
    (plain,) = space.to_jsonable([observation])
    return json.dumps(plain, default=lambda value: value.tolist())
