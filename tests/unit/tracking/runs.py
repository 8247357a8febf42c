"""A small run for trackers."""

import io
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image

from mmrlhf_ray.config import SFTConfig
from mmrlhf_ray.demo.clips import DIRECTIONS, clip_webm
from mmrlhf_ray.runtime.metrics import MetricsWriter
from mmrlhf_ray.tracking.tracker import Clip, Sample
from mmrlhf_ray.tracking.trackers import tracking

RED = (250, 10, 10)


def config(directory: Path, *track: str) -> SFTConfig:
    return SFTConfig.model_validate(
        {
            "name": "a-run", "output_dir": str(directory), "model": {"path": "a-model"}, "data": {"path": "rows.jsonl"},
            "steps": 10, "track": list(track), "env": {"SOME_TOKEN": "a-secret"},
        }
    )  # fmt: skip


def picture() -> Clip:
    file = io.BytesIO()
    Image.new("RGB", (12, 8), RED).save(file, "PNG")
    return Clip("image", "image/png", file.getvalue())


def sound() -> Clip:
    file = io.BytesIO()
    soundfile.write(file, np.sin(np.arange(800) / 5), 8000, format="WAV")
    return Clip("audio", "audio/x-wav", file.getvalue())


def clip() -> Clip:
    return Clip("video", "video/webm", clip_webm(3, DIRECTIONS[0]))


def samples() -> list[Sample]:
    return [
        Sample("digit", "Which digit?", "A seven.", 0.75, 0.5, (picture(),)),
        Sample("tone", "Which | tone?\nSay it.", "A five.", -0.25, math.nan, (sound(),)),
        Sample("both", "Which digit moves?", "A two.", 0.0, 0.0, (picture(), clip())),
    ]


def write(directory: Path, track: Sequence[str], steps: Sequence[int], resume_step: int | None = None) -> Path:
    """Log `steps` as a run does; in a resumed one scores are a quarter higher. Returns the run's directory."""
    cfg, shift = config(directory, *track), 0.0 if resume_step is None else 0.25
    with (
        MetricsWriter(cfg.run_dir, "sft", resume_step) as writer,
        tracking(cfg, cfg.run_dir, "sft", resume_step) as trackers,
    ):
        for step in steps:
            metrics = {"score": step + shift, "kl": math.nan, "seconds_step": 2.0, "lr": 1e-5}
            writer.log(step, metrics)
            trackers.log(step, metrics)
        trackers.show(steps[-1], samples())
    return cfg.run_dir


def names(run_dir: Path) -> str:
    """The id that trackers know the run by."""
    return str(json.loads((run_dir / "tracking.json").read_text())["id"])
