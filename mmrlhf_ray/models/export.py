"""Trained weights back into Hugging Face directories."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import save_torch_state_dict
from safetensors.torch import save_file
from torch import Tensor

from mmrlhf_ray.models.adapter import ModelAdapter
from mmrlhf_ray.models.headed import HEAD, SCALAR_HEAD_FILE, checkpoint_name

_WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "*.bin", "*.bin.index.json", "*.pt", "*.pth")


def export_model(
    adapter: ModelAdapter, source: Path, target: Path, tensors: Mapping[str, Tensor], *, scalar: bool
) -> None:
    """Write a HeadedModel's parameters to `target`, with all else that `source` has: processor, chat template,
    generation config. A scalar head goes into a file of its own, a vocabulary head where the family keeps it.

    `target` appears whole or not at all; an earlier export is replaced.
    """
    fresh = target.with_name(f".{target.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source, fresh, ignore=shutil.ignore_patterns(*_WEIGHTS, ".*"))
    own_head = {n: t.contiguous() for n, t in tensors.items() if scalar and n.startswith(HEAD)}
    rest = {checkpoint_name(adapter, n): t.contiguous() for n, t in tensors.items() if n not in own_head}
    save_torch_state_dict(rest, fresh)
    if scalar:
        save_file({name.removeprefix(HEAD): tensor for name, tensor in own_head.items()}, fresh / SCALAR_HEAD_FILE)
    _replace(fresh, target)


def _replace(fresh: Path, target: Path) -> None:
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    fresh.rename(target)
    shutil.rmtree(old, ignore_errors=True)
