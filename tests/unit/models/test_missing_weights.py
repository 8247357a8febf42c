"""A directory that lacks weights is refused by name, never filled with random numbers."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mmrlhf_ray.data.encoding.encode import Encoder
from mmrlhf_ray.errors import ModelError
from mmrlhf_ray.models import export_model, load_critic, load_policy, load_scalar
from mmrlhf_ray.models.scalar_head import SCALAR_HEAD_FILE

Change = Callable[[dict[str, Tensor]], Mapping[str, Tensor]]


def without(*parts: str) -> Change:
    return lambda tensors: {n: t for n, t in tensors.items() if not any(part in n for part in parts)}


def shorter(part: str) -> Change:
    return lambda tensors: {n: t[:-1].contiguous() if part in n else t for n, t in tensors.items()}


@pytest.fixture
def directory(family_dir: Path, tmp_path: Path) -> Path:
    """A copy whose weights may be changed."""
    for file in family_dir.iterdir():
        (tmp_path / file.name).symlink_to(file)
    return tmp_path


def rewrite(directory: Path, change: Change) -> None:
    file = directory / "model.safetensors"
    tensors = load_file(file)
    file.unlink()
    save_file(dict(change(tensors)), file, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without("layers.1.mlp"), "its files lack .*layers.1.mlp"),
        (without("embed_tokens"), "its files lack .*embed_tokens"),
        (without("layers.0.", "layers.1."), "and [0-9]+ more"),
        (shorter("layers.0.mlp"), "have another shape than config.json says: .*layers.0.mlp"),
    ],
)
def test_weights_that_are_not_there_are_named(
    directory: Path, family_encoder: Encoder, change: Change, words: str
) -> None:
    rewrite(directory, change)
    for load in (load_policy, load_critic):
        with pytest.raises(ModelError, match=words) as error:
            load(family_encoder.adapter, directory, torch.float32)
        assert str(directory) in str(error.value)


@pytest.mark.parametrize("content", [b"", b"xx", None])
def test_files_that_are_no_weights(directory: Path, family_encoder: Encoder, content: bytes | None) -> None:
    (directory / "model.safetensors").unlink()
    if content is not None:
        (directory / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match="its weights cannot be read"):
        load_policy(family_encoder.adapter, directory, torch.float32)


def test_a_reward_model_answers_nothing(vl: Path, vl_encoder: Encoder, tmp_path: Path) -> None:
    adapter, reward = vl_encoder.adapter, tmp_path / "reward"
    scalar = load_scalar(adapter, vl, torch.float32, new_head=True)
    export_model(adapter, vl, reward, dict(scalar.named_parameters()), scalar=True)
    with pytest.raises(ModelError, match=rf"this is a reward model \({SCALAR_HEAD_FILE} is there"):
        load_policy(adapter, reward, torch.float32)
    load_critic(adapter, reward, torch.float32)
    load_scalar(adapter, reward, torch.float32, new_head=True)
    (reward / SCALAR_HEAD_FILE).unlink()
    with pytest.raises(ModelError, match=r"its files lack 1 weights .*: lm_head.weight"):
        load_policy(adapter, reward, torch.float32)
