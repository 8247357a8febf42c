"""Who sits where, and on which device. (Actors themselves: tests/ray.)"""

from pathlib import Path

import pytest

from mmrlhf_ray.config import DataConfig, GeneratorConfig, ModelConfig, Resources, RolePlacement, SamplingConfig
from mmrlhf_ray.runtime.actors import Seat
from mmrlhf_ray.workers.crew import absolute, device_of, generator_arguments, seats


@pytest.mark.parametrize(
    ("gpus", "configured", "device"),
    [(0.0, "auto", "cpu"), (0.25, "auto", "cuda"), (1.0, "cpu", "cpu"), (0.0, "cuda", "cuda")],
)
def test_the_device_follows_what_is_reserved_unless_configured(gpus: float, configured: str, device: str) -> None:
    assert device_of(Resources(num_gpus=gpus), configured) == device


def test_one_seat_for_each_replica_named_by_role() -> None:
    placement = RolePlacement(replicas=3, num_cpus=2, num_gpus=0.5)
    assert seats("policy", placement) == [Seat(f"policy-{i}", placement) for i in range(3)]


def test_paths_do_not_depend_on_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = ModelConfig(path="models/base", dtype="bfloat16")
    moved = absolute(model)
    assert moved.path == str(tmp_path / "models" / "base")
    assert moved.dtype == "bfloat16"
    assert absolute(moved) == moved


def test_generators_are_told_everything(tmp_path: Path) -> None:
    config, sampling = GeneratorConfig(max_num_seqs=7), SamplingConfig(temperature=0.5)
    model, data = ModelConfig(path=str(tmp_path)), DataConfig(path="prompts.jsonl", max_prompt_tokens=99)
    arguments = generator_arguments(model, config, sampling, data, 3, Resources(num_gpus=1), "auto")
    assert arguments == {
        "model": model,
        "config": config,
        "sampling": sampling,
        "max_prompt_tokens": 99,
        "data": data,
        "seed": 3,
        "device": "cuda",
    }
