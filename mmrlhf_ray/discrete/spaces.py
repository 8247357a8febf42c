"""Observation and action spaces, derived from the configuration alone."""

from collections.abc import Mapping

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete

from mmrlhf_ray.config.discrete import DiscreteConfig
from mmrlhf_ray.config.discrete_parts import (
    AudioModality,
    DecideTask,
    Grid,
    ImageModality,
    Modality,
    Task,
    TextModality,
    VideoModality,
)
from mmrlhf_ray.discrete.front_end import front_end_bounds, front_end_shape

PRESENT = "present"
TASK = "task"


def modality_space(modality: Modality) -> Box:
    """The space of one modality, without a batch: shapes, units and types as the configuration's docstrings say."""
    match modality:
        case ImageModality():
            return Box(0.0, 1.0, (modality.channels, modality.height, modality.width), np.float32)
        case AudioModality():
            return Box(*front_end_bounds(modality), front_end_shape(modality), np.float32)
        case VideoModality():
            shape = (modality.frames, modality.channels, modality.height, modality.width)
            return Box(0.0, 1.0, shape, np.float32)
        case TextModality():
            return Box(0, modality.buckets - 1, (modality.words,), np.int64)


def observation_space(cfg: DiscreteConfig) -> gymnasium.spaces.Dict:
    """{modality: its space, "present": 0 or 1 for each modality in the order of `observation.modalities`}.

    With several tasks also {"task": one-hot float32 [tasks], in the order of `tasks`}. What is not present is all 0.
    Note that gymnasium sorts the keys of this dictionary; the configuration's order is the one that counts.
    """
    spaces: dict[str, gymnasium.Space] = {n: modality_space(m) for n, m in cfg.observation.modalities.items()}
    spaces[PRESENT] = Box(0.0, 1.0, (len(cfg.observation.modalities),), np.float32)
    if len(cfg.tasks) > 1:
        spaces[TASK] = Box(0.0, 1.0, (len(cfg.tasks),), np.float32)
    return gymnasium.spaces.Dict(spaces)


def action_space(cfg: DiscreteConfig) -> Discrete:
    """The decisions of the task with the most of them, then `cfg.ask_actions`."""
    return Discrete(max(decision_counts(cfg).values()) + len(cfg.ask_actions))


def decision_counts(cfg: DiscreteConfig) -> dict[str, int]:
    """Task → how many decisions it has; they are its actions 0 … count − 1."""
    return {name: len(action_names(task)) for name, task in cfg.tasks.items()}


def action_names(task: Task) -> tuple[str, ...]:
    """A task's decisions as text: classes, or boxes `[x1, y1, x2, y2]` as shares of the picture."""
    if isinstance(task, DecideTask):
        return task.classes
    return tuple(f"[{', '.join(f'{x:.3f}' for x in box)}]" for box in grid_boxes(task.grid))


def grid_boxes(grid: Grid) -> np.ndarray:
    """Boxes float32 [rows · columns, 4] as x1, y1, x2, y2 in shares of the picture, row by row from the top left."""
    left = np.linspace(0.0, 1.0 - grid.width, grid.columns) if grid.columns > 1 else np.array([(1 - grid.width) / 2])
    top = np.linspace(0.0, 1.0 - grid.height, grid.rows) if grid.rows > 1 else np.array([(1 - grid.height) / 2])
    y, x = np.meshgrid(top, left, indexing="ij")
    boxes = np.stack([x, y, x + grid.width, y + grid.height], axis=-1)
    return boxes.reshape(-1, 4).astype(np.float32)


def empty_observation(cfg: DiscreteConfig) -> Mapping[str, np.ndarray]:
    """An observation with nothing present, of the first task."""
    empty: dict[str, np.ndarray] = {}
    for name, space in observation_space(cfg).items():
        assert isinstance(space, Box)
        empty[name] = np.zeros(space.shape, space.dtype)
    if TASK in empty:
        empty[TASK][0] = 1.0
    return empty
