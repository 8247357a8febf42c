"""A backbone and a linear head: the policy with its vocabulary head, critic and reward model with a scalar one."""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from mmrlhf_ray.models.adapter import ModelAdapter
from mmrlhf_ray.models.errors import ModelError

HEAD = "head."
"""Prefix of the head's parameters in a HeadedModel."""
SCALAR_HEAD_FILE = "scalar_head.safetensors"
"""Beside a Hugging Face directory, turns it into a reward model: `weight` [1, hidden]."""


class HeadedModel(nn.Module):
    """Hidden states of all positions, the head on the selected ones only.

    Applying the vocabulary head to every position would cost batch × length × vocabulary floats, of which
    training reads the response positions alone.
    """

    def __init__(self, backbone: nn.Module, head: nn.Linear):
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, select: Tensor, **inputs: Tensor) -> Tensor:
        """`inputs`: the family's model inputs, [B, L] and features. `select` [N]: flat positions in B·L.

        Returns the head's output, [N, vocabulary] or [N, 1].
        """
        hidden = self.backbone(**inputs, use_cache=False).logits
        return self.head(hidden.flatten(0, 1)[select])


def _split_head(model: nn.Module) -> tuple[nn.Module, nn.Linear]:
    head = model.lm_head
    model.lm_head = nn.Identity()
    return model, head


def load_policy(adapter: ModelAdapter, path: Path, dtype: torch.dtype, device_map: str | None = None) -> HeadedModel:
    """The language model of a Hugging Face directory with its own vocabulary head. `device_map` as in adapters."""
    return HeadedModel(*_split_head(adapter.load(path, dtype, device_map)))


def load_scalar(
    adapter: ModelAdapter, path: Path, dtype: torch.dtype, *, new_head: bool, device_map: str | None = None
) -> HeadedModel:
    """A reward or value model. `new_head` starts from a language model with a head of zeros (first score: 0);
    otherwise the directory must hold a trained head.

    Raises ModelError where a head is expected and not there.
    """
    backbone, vocabulary_head = _split_head(adapter.load(path, dtype, device_map))
    # A spread backbone takes and returns tensors on the device of its first layer.
    device = next(backbone.parameters()).device
    head = nn.Linear(vocabulary_head.in_features, 1, bias=False, dtype=dtype, device=device)
    if new_head:
        nn.init.zeros_(head.weight)
    else:
        head.load_state_dict(load_file(scalar_head_file(path)))
    return HeadedModel(backbone, head)


def scalar_head_file(path: str | Path) -> Path:
    """The file that makes a directory a reward model. Raises ModelError where it is not there."""
    file = Path(path) / SCALAR_HEAD_FILE
    if not file.is_file():
        raise ModelError(
            f"{path}: expected a reward model with {SCALAR_HEAD_FILE}, found none; run mmrlhf reward-model"
        )
    return file


def checkpoint_name(adapter: ModelAdapter, name: str) -> str:
    """Name in the directory's safetensors of a HeadedModel parameter with a vocabulary head."""
    if name.startswith(HEAD):
        return adapter.checkpoint_name("lm_" + name)
    return adapter.checkpoint_name(name.removeprefix("backbone."))
