"""A model that was built and exported is read again as what it was when it was trained. (Several ranks: tests/ray.)"""

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForImageTextToText

from mmrlhf_ray.config import AlgorithmConfig, EngineConfig, LearnerConfig, LoRAConfig, ModelConfig, OptimizerConfig
from mmrlhf_ray.data.batches.collate import Batch, collate
from mmrlhf_ray.data.encoding.encode import Encoder
from mmrlhf_ray.models import ScalarHead, load_policy, load_scalar, read_scalar_head
from mmrlhf_ray.training.build import Trained, build_trained
from mmrlhf_ray.training.objectives import CriticObjective, Objective, PolicyObjective
from tests.unit.tiny import mixed_rows
from tests.unit.training.rank_process import run_ranks

CPU = torch.device("cpu")
LORA = LoRAConfig(rank=2, alpha=8.0, target_modules=("q_proj", "o_proj"))
TOWERS = LoRAConfig(rank=2, alpha=8.0, parts=("language_model", "vision_tower"), target_modules=("q_proj", "qkv"))
ALONGSIDE = TOWERS.model_copy(update={"also_train": ("projector",)})
POLICY, CRITIC = PolicyObjective(AlgorithmConfig(), 1.0), CriticObjective(AlgorithmConfig())


@pytest.fixture
def batch(vl_encoder: Encoder) -> Batch:
    rows, features = mixed_rows(vl_encoder)
    return collate(rows, [], features, 0)


def trained(objective: Objective, path: Path, batch: Batch, lora: LoRAConfig | None = None, seed: int = 3) -> Trained:
    """After one step that moves what is trained."""
    learner = LearnerConfig(engine=EngineConfig(zero_stage=2), optimizer=OptimizerConfig(lr=0.05), lora=lora)
    model = ModelConfig(path=str(path))
    found = build_trained(objective, model, learner, optimizer_steps=1, seed=seed, device=CPU)
    found.engine.train()
    found.engine.backward((output(found, batch).float() - 1.0).square().mean(), last=True)
    found.engine.train(False)
    return found


def output(built: Trained, batch: Batch) -> Tensor:
    return built.engine.forward(batch.response_positions, **batch.inputs)


@pytest.mark.parametrize("lora", [None, LORA, TOWERS, ALONGSIDE])
@torch.no_grad()
def test_a_policy(
    process_group: None, vl: Path, vl_encoder: Encoder, batch: Batch, tmp_path: Path, lora: LoRAConfig | None
) -> None:
    with torch.enable_grad():
        built = trained(POLICY, vl, batch, lora)
    want = output(built, batch)
    untrained = load_policy(vl_encoder.adapter, vl, torch.float32)
    assert not torch.allclose(want, untrained(batch.response_positions, **batch.inputs), atol=1e-3)
    built.export(tmp_path / "model")
    again = load_policy(vl_encoder.adapter, tmp_path / "model", torch.float32)
    torch.testing.assert_close(again(batch.response_positions, **batch.inputs), want, rtol=1e-4, atol=1e-5)
    alone = lora is not None and lora.is_alone  # else the adapter would be of a model that is written nowhere
    assert sorted(path.name for path in tmp_path.iterdir()) == (["adapter", "model"] if alone else ["model"])


@torch.no_grad()
def test_the_adapter_next_to_the_model_says_the_same(
    process_group: None, vl: Path, batch: Batch, tmp_path: Path
) -> None:
    with torch.enable_grad():
        built = trained(POLICY, vl, batch, LORA)
    built.export(tmp_path / "model")
    base = AutoModelForImageTextToText.from_pretrained(vl)
    with_adapter = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    merged = AutoModelForImageTextToText.from_pretrained(tmp_path / "model")
    ids = torch.tensor([[20, 21, 22, 23]])
    torch.testing.assert_close(with_adapter(input_ids=ids).logits, merged(input_ids=ids).logits, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_scalar_head_with_its_layout(
    process_group: None, vl: Path, vl_encoder: Encoder, batch: Batch, tmp_path: Path
) -> None:
    with torch.enable_grad():
        built = trained(CRITIC, vl, batch)
    want, layout = output(built, batch), ScalarHead(aspects={"helpful": 2.0})
    built.export(tmp_path / "model", layout)
    assert read_scalar_head(tmp_path / "model") == layout
    again = load_scalar(vl_encoder.adapter, tmp_path / "model", torch.float32, new_head=False)
    torch.testing.assert_close(again(batch.response_positions, **batch.inputs), want, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_checkpoint_brings_back_what_was_trained(process_group: None, vl: Path, batch: Batch, tmp_path: Path) -> None:
    with torch.enable_grad():
        built = trained(POLICY, vl, batch, LORA)
    want = output(built, batch)
    built.save(tmp_path)
    with torch.enable_grad():
        other = trained(POLICY, vl, batch, LORA, seed=4)
    assert not torch.allclose(output(other, batch), want, atol=1e-3)
    other.load(tmp_path)
    torch.testing.assert_close(output(other, batch), want)


def export_what_was_loaded(rank: int, directory: Path) -> None:
    learner = LearnerConfig(engine=EngineConfig(zero_stage=3))
    path = str(directory / "source")
    built = build_trained(POLICY, ModelConfig(path=path), learner, optimizer_steps=1, seed=0, device=CPU)
    built.export(directory / "model")


def test_ranks_export_what_they_have_divided(vl: Path, tmp_path: Path) -> None:
    (tmp_path / "source").symlink_to(vl)
    run_ranks(2, export_what_was_loaded, tmp_path)
    got, want = (load_file(tmp_path / name / "model.safetensors") for name in ("model", "source"))
    assert got.keys() == want.keys()
    assert all(torch.equal(got[name], tensor) for name, tensor in want.items())
