"""A small discrete job on real digits and tones."""

import json
from pathlib import Path
from typing import Any

from mmrlhf_ray.config import DiscreteConfig
from mmrlhf_ray.demo.discrete_data import Sizes, build

CLASSES = [str(digit) for digit in range(10)]


def make_data(directory: Path) -> Path:
    build(directory, 0, Sizes(train=300, heldout=100))
    return directory


def job(data: Path, output_dir: Path, algorithm: dict[str, Any], **keys: Any) -> DiscreteConfig:
    """Digit and tone with this algorithm, two steps of 128 decisions; `keys` replace top-level keys."""
    task = {"kind": "decide", "classes": CLASSES, **parts(data, "digits")}
    image = {"kind": "image", "height": 8, "width": 8, "encoder": {"kind": "mlp"}}
    tone = {"kind": "audio", "seconds": 0.4, "sampling_rate": 4000, "encoder": {"kind": "mlp"}}
    values = {
        "name": "small",
        "output_dir": str(output_dir),
        "tasks": {"digit": task},
        "observation": {"modalities": {"image": image, "tone": tone}},
        "algorithm": algorithm,
        "steps": 2,
        "decisions_per_step": 128,
    }
    return DiscreteConfig.model_validate_json(json.dumps(values | keys), strict=True)


def parts(data: Path, name: str) -> dict[str, Any]:
    return {part: {"path": str(data / name / part)} for part in ("train", "heldout")}
