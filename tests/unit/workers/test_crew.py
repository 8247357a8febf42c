"""Who sits where, and on which device. (Actors themselves: tests/ray.)"""

from pathlib import Path

import pytest

from mmrlhf_ray.config import ModelConfig, Resources
from mmrlhf_ray.workers.crew import absolute, device_of


@pytest.mark.parametrize(
    ("gpus", "configured", "device"),
    [(0.0, "auto", "cpu"), (0.25, "auto", "cuda"), (1.0, "cpu", "cpu"), (0.0, "cuda", "cuda")],
)
def test_the_device_follows_what_is_reserved_unless_configured(gpus: float, configured: str, device: str) -> None:
    assert device_of(Resources(num_gpus=gpus), configured) == device


def test_paths_do_not_depend_on_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = ModelConfig(path="models/base", dtype="bfloat16")
    moved = absolute(model)
    assert moved.path == str(tmp_path / "models" / "base")
    assert moved.dtype == "bfloat16"
    assert absolute(moved) == moved
