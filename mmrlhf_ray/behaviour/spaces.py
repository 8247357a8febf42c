"""Observations of any Gymnasium environment as named modalities: pictures and vectors."""

from collections.abc import Iterator, Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete, MultiBinary, Space

from mmrlhf_ray.errors import ConfigError

Observation = dict[str, np.ndarray]
"""Modality → a picture [height, width, channels] as the environment has it, or a vector float32 [n]."""
STATE, PICTURE = "state", "picture"
_FEWEST_PIXELS = 3
"""Boxes of three axes whose first two are shorter are tables, not pictures."""


def modalities(space: Space[Any]) -> gymnasium.spaces.Dict:
    """The space of what `named` makes of an observation. Raises ConfigError for a space that holds something else."""
    return gymnasium.spaces.Dict({name: _box(name, leaf) for name, leaf in _leaves(space)})


def named(space: Space[Any], observation: Any) -> Observation:
    """An observation of `space` by modality."""
    return dict(_values(space, observation))


def is_picture(box: Box) -> bool:
    """Whether a modality goes through convolutions."""
    return len(box.shape) == 3


def check_actions(space: Space[Any]) -> Discrete | Box:
    """Raise ConfigError unless actions are numbered, or vectors within finite bounds."""
    if isinstance(space, Discrete) and space.start == 0:
        return space
    if isinstance(space, Box) and len(space.shape) == 1 and space.is_bounded():
        return space
    raise ConfigError(
        f"environment.id: its actions are {space}; expected Discrete, or a Box of one axis with finite bounds"
    )


def _leaves(space: Space[Any], name: str = "") -> Iterator[tuple[str, Space[Any]]]:
    inner: Mapping[str, Space[Any]]
    if isinstance(space, gymnasium.spaces.Dict):
        inner = dict(space.spaces)
    elif isinstance(space, gymnasium.spaces.Tuple):
        inner = {f"part{number}": part for number, part in enumerate(space.spaces)}
    else:
        yield name or STATE, space
        return
    for key, part in inner.items():
        yield from _leaves(part, f"{name}_{key}" if name else str(key))


def _values(space: Space[Any], value: Any, name: str = "") -> Iterator[tuple[str, np.ndarray]]:
    if isinstance(space, gymnasium.spaces.Dict):
        for key, part in space.spaces.items():
            yield from _values(part, value[key], f"{name}_{key}" if name else str(key))
    elif isinstance(space, gymnasium.spaces.Tuple):
        for number, part in enumerate(space.spaces):
            yield from _values(part, value[number], f"{name}_part{number}" if name else f"part{number}")
    else:
        yield name or STATE, _array(space, value)


def _array(space: Space[Any], value: Any) -> np.ndarray:
    if isinstance(space, Discrete):
        return np.eye(int(space.n), dtype=np.float32)[int(value) - int(space.start)]
    array = np.asarray(value)
    if _pictured(space):
        return array.astype(np.uint8)
    return array.astype(np.float32).reshape(-1)


def _box(name: str, space: Space[Any]) -> Box:
    if isinstance(space, Discrete):
        return Box(0.0, 1.0, (int(space.n),), np.float32)
    if not isinstance(space, Box | MultiBinary):
        raise ConfigError(f"environment.id: {name} is observed as {space}, expected boxes and numbers")
    if _pictured(space):
        high = 1 if space.dtype == np.bool_ else 255
        return Box(0, high, space.shape, np.uint8)
    return Box(-np.inf, np.inf, (int(np.prod(space.shape)),), np.float32)


def _pictured(space: Space[Any]) -> bool:
    if not isinstance(space, Box) or len(space.shape) != 3 or min(space.shape[:2]) <= _FEWEST_PIXELS:
        return False
    return space.dtype in (np.dtype(np.uint8), np.dtype(np.bool_))
