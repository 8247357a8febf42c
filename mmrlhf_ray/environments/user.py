"""A class of the user's as an environment: what it returns is taken kindly."""

import inspect
import math
from collections.abc import Callable
from typing import Any

from mmrlhf_ray.config.environment import PythonEnvironment
from mmrlhf_ray.environments.parts import parts_of
from mmrlhf_ray.environments.protocol import EpisodeFailed, Part, Start, Step
from mmrlhf_ray.errors import ConfigError
from mmrlhf_ray.sandbox.inside import load_function

_NEEDED = ("reset", "step")


def load_class(config: PythonEnvironment) -> Callable[..., Any]:
    """The user's class. Raises ConfigError when it cannot be an environment, and whatever its file raises."""
    found = load_function(config.environment)
    missing = [name for name in _NEEDED if not callable(getattr(found, name, None))]
    if not inspect.isclass(found) or missing:
        raise ConfigError(f"is not a class with the methods {' and '.join(_NEEDED)}")
    try:
        inspect.signature(found).bind(**config.arguments)
    except TypeError as error:
        raise ConfigError(f"cannot be made with the arguments {sorted(config.arguments)}: {error}") from None
    return found


class UserEnvironment:
    """One episode in an object of the user's class."""

    def __init__(self, kind: Callable[..., Any], config: PythonEnvironment):
        self._own = kind(**config.arguments)

    def reset(self, start: Start) -> tuple[Part, ...]:
        """Raises whatever the user's code raises, and CannotShow."""
        return parts_of(self._own.reset(start))

    def step(self, response: str) -> Step:
        """A Step, or (observation, reward, done) of anything that can be shown. Raises as reset() does."""
        answer = self._own.step(response)
        if isinstance(answer, Step):
            answer = (answer.observation, answer.reward, answer.done, answer.problem)
        if not isinstance(answer, tuple) or len(answer) not in (3, 4):
            raise EpisodeFailed(f"step returned {_shown(answer)}, expected a Step or (observation, reward, done)")
        observation, reward, done, *problem = answer
        return Step(parts_of(observation), checked_reward(reward), bool(done), *problem)

    def close(self) -> None:
        """Call the user's close(), if there is one."""
        close = getattr(self._own, "close", None)
        if close is not None:
            close()


def checked_reward(reward: Any) -> float | None:
    """A finite number, or None. Raises EpisodeFailed."""
    if reward is None:
        return None
    try:
        number = float(reward)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(reward, str) or not math.isfinite(number):
        raise EpisodeFailed(f"the reward is {_shown(reward)}, expected a finite number or None")
    return number


def _shown(value: Any) -> str:
    return f"{repr(value)[:100]} ({type(value).__name__})"
