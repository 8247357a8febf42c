"""Small discrete jobs, and cases that are made up instead of read."""

import json
from typing import Any

import numpy as np

from mmrlhf_ray.config import DiscreteConfig
from mmrlhf_ray.discrete.cases import Cases, Column
from mmrlhf_ray.discrete.spaces import action_names

NOWHERE = {"train": {"path": "train"}, "heldout": {"path": "heldout"}}
IMAGE = {"kind": "image", "height": 4, "width": 4}
TEXT = {"kind": "text", "words": 3, "buckets": 50}


def job(**keys: Any) -> DiscreteConfig:
    """A picture and a text, three classes, DQN; `keys` replace whole top-level keys."""
    values = {
        "name": "tiny",
        "tasks": {"colour": {"kind": "decide", "classes": ["red", "green", "blue"], **NOWHERE}},
        "observation": {"modalities": {"image": IMAGE, "said": TEXT}},
        "algorithm": {"kind": "dqn"},
    }
    return DiscreteConfig.model_validate_json(json.dumps(values | keys), strict=True)


def made_up(cfg: DiscreteConfig, n: int = 6, task: str | None = None, seed: int = 0) -> Cases:
    """n cases whose labels come in turn. Row i has no text where i is divisible by 3."""
    task = task or next(iter(cfg.tasks))
    rng = np.random.default_rng(seed)
    names = action_names(cfg.tasks[task])
    pixels = rng.integers(1, 256, size=(n, 1, 4, 4), dtype=np.uint8)
    text = np.where(np.arange(n) % 3 == 0, -1, np.arange(n))
    columns = {
        "image": Column(pixels, np.arange(n)),
        "said": Column(rng.integers(1, 50, size=(n, 3)), text),
    }
    return Cases(
        task=task,
        task_number=list(cfg.tasks).index(task),
        tasks=len(cfg.tasks),
        actions=names,
        columns={name: columns[name] for name in cfg.observation.modalities},
        scores=np.eye(len(names), dtype=np.float32)[np.arange(n) % len(names)],
        prompt_ids=tuple(f"p{i}" for i in range(n)),
        messages=("[]",) * n,
        media_ids=((),) * n,
    )
