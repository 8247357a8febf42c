"""A backbone with a head that is read at some positions only."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5OmniThinkerForConditionalGeneration

from mmrlhf_ray.data.batches.collate import collate
from mmrlhf_ray.data.encoding.encode import Encoder
from mmrlhf_ray.errors import ModelError
from mmrlhf_ray.models import load_policy, load_scalar
from mmrlhf_ray.models.scalar_head import SCALAR_HEAD_FILE
from tests.unit.tiny import mixed_rows

CLASSES = {
    "qwen2_5_omni": Qwen2_5OmniThinkerForConditionalGeneration,
    "qwen2_5_vl": Qwen2_5_VLForConditionalGeneration,
}


@pytest.fixture
def directory(encoder: Encoder, omni: Path, vl: Path) -> Path:
    return {"qwen2_5_omni": omni, "qwen2_5_vl": vl}[encoder.adapter.family]


@torch.no_grad()
def test_the_policy_gives_the_models_own_logits_where_asked(encoder: Encoder, directory: Path) -> None:
    rows, features = mixed_rows(encoder)
    batch = collate(rows[:1], [], features, 0)
    select = torch.tensor([3, 0, 5])
    got = load_policy(encoder.adapter, directory, torch.float32)(select, **batch.inputs)
    whole = CLASSES[encoder.adapter.family].from_pretrained(directory).eval()(**batch.inputs).logits
    torch.testing.assert_close(got, whole[0, select], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_new_scalar_head_says_zero(encoder: Encoder, directory: Path) -> None:
    rows, features = mixed_rows(encoder)
    batch = collate(rows, [], features, 0)
    model = load_scalar(encoder.adapter, directory, torch.float32, new_head=True)
    scores = model(batch.last_positions, **batch.inputs)
    assert scores.tolist() == [[0.0]] * len(rows)


@torch.no_grad()
def test_a_trained_scalar_head_is_read_from_its_file(encoder: Encoder, directory: Path, tmp_path: Path) -> None:
    for file in directory.iterdir():
        (tmp_path / file.name).symlink_to(file)
    width = load_policy(encoder.adapter, directory, torch.float32).head.weight.shape[1]
    weight = torch.randn(1, width, generator=torch.Generator().manual_seed(0))
    save_file({"weight": weight}, tmp_path / SCALAR_HEAD_FILE)
    model = load_scalar(encoder.adapter, tmp_path, torch.float32, new_head=False)
    assert torch.equal(model.head.weight, weight)
    rows, features = mixed_rows(encoder)
    batch = collate(rows, [], features, 0)
    scores = model(batch.last_positions, **batch.inputs)
    hidden = model.backbone(**batch.inputs, use_cache=False).logits
    for row, (score, length) in enumerate(zip(scores[:, 0], map(len, rows), strict=True)):
        torch.testing.assert_close(score, hidden[row, length - 1] @ weight[0], atol=1e-4, rtol=1e-4)


def test_a_language_model_is_no_reward_model(encoder: Encoder, directory: Path) -> None:
    with pytest.raises(ModelError, match=f"expected a reward model with {SCALAR_HEAD_FILE}, found none"):
        load_scalar(encoder.adapter, directory, torch.float32, new_head=False)


def test_heads_take_the_asked_type(encoder: Encoder, directory: Path) -> None:
    assert load_policy(encoder.adapter, directory, torch.bfloat16).head.weight.dtype == torch.bfloat16
    scalar = load_scalar(encoder.adapter, directory, torch.bfloat16, new_head=True)
    assert {p.dtype for p in scalar.parameters()} == {torch.bfloat16}
