"""`mmrlhf export` writes what the run would have exported at that step."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mmrlhf_ray.config import EngineConfig, LearnerConfig, OptimizerConfig, SFTConfig
from mmrlhf_ray.data.batches.collate import collate
from mmrlhf_ray.data.encoding.encode import Encoder
from mmrlhf_ray.errors import ConfigError, RunError
from mmrlhf_ray.models.card import read_card
from mmrlhf_ray.pipelines.export.job import export
from mmrlhf_ray.pipelines.resume import run_record
from mmrlhf_ray.training.build import Trained, build_trained
from mmrlhf_ray.training.checkpoint import Manifest, publish, stage
from mmrlhf_ray.training.tasks import SFTTask
from tests.unit.tiny import mixed_rows


def trained(cfg: SFTConfig, encoder: Encoder) -> Trained:
    """After one step."""
    built = build_trained(
        SFTTask(cfg.feedback_coef), cfg.model, cfg.learner, optimizer_steps=4, seed=0, device=torch.device("cpu")
    )
    rows, features = mixed_rows(encoder)
    batch = collate(rows, [], features, 0)
    built.engine.train()
    output = built.engine.forward(batch.response_positions, **batch.inputs)
    built.engine.backward((output.float() - 1.0).square().mean(), last=True)
    return built


def test_the_model_of_a_runs_newest_checkpoint(
    process_group: None, omni: Path, omni_encoder: Encoder, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    cfg = SFTConfig(
        name="n",
        steps=4,
        batch_size=2,
        model={"path": str(omni)},
        data={"path": "d"},
        learner=LearnerConfig(engine=EngineConfig(zero_stage=2), optimizer=OptimizerConfig(lr=0.05)),
    )
    built, path = trained(cfg, omni_encoder), stage(run_dir, 3)
    files = {f"workers/{name}": digest for name, digest in built.save(path / "workers").items()}
    record = run_record(cfg, {"data": 5}).to_dict()
    manifest = Manifest(step=3, policy_version=3, seed=0, ranks={"workers": 1}, run=record, files=files)
    checkpoint = publish(path, manifest, keep=2)
    built.export(tmp_path / "want")
    command = [sys.executable, "-m", "mmrlhf_ray.cli", "export", str(run_dir), str(tmp_path / "got")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    card = read_card(tmp_path / "got")
    assert "Trained by `mmrlhf sft` after 3 steps, seed 0." in card.text
    assert "| `data` | d: 5 rows |" in card.text
    assert done.stdout.endswith(f"{tmp_path / 'got'}: the model after 3 steps, from {checkpoint}\n")
    got, want, source = (load_file(p / "model.safetensors") for p in (tmp_path / "got", tmp_path / "want", omni))
    assert got.keys() == want.keys()
    assert all(torch.equal(got[name], tensor) for name, tensor in want.items())
    assert not all(torch.equal(source[name], tensor) for name, tensor in want.items()), "nothing was trained"

    with pytest.raises(ConfigError, match="got: expected a directory that is not there yet"):
        export(run_dir, tmp_path / "got")
    weights = next(checkpoint.rglob("*model_states.pt"))
    weights.write_bytes(b"")
    with pytest.raises(RunError, match=f"{weights.name} is damaged.*choose another one"):
        export(checkpoint, tmp_path / "other")
    with pytest.raises(RunError, match="no checkpoint can be resumed from"):
        export(run_dir, tmp_path / "other")


def test_a_directory_without_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="found no checkpoint"):
        export(tmp_path, tmp_path / "other")
    with pytest.raises(RunError, match=r"step-00000001.* is missing"):
        export(tmp_path / "step-00000001", tmp_path / "other")
