"""A backbone and a linear head: the policy with its vocabulary head, critic and reward model with a scalar one."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.utils.checkpoint import checkpoint

from mmrlhf_ray.errors import ModelError
from mmrlhf_ray.models.adapter import ModelAdapter
from mmrlhf_ray.models.scalar_head import (
    LAYOUT_FILE,
    SCALAR_HEAD_FILE,
    ScalarHead,
    new_weight,
    read_scalar_head,
    scalar_head_file,
)
from mmrlhf_ray.models.spread import Spread

HEAD = "head."
"""Prefix of the head's parameters in a HeadedModel."""
SCALAR_HEAD = "scalar_head"
"""The part that a scalar head is: always trained."""


@dataclass(frozen=True)
class Reading:
    """What is made of the head's output as it is computed, so that it is never whole in memory."""

    read: Callable[[Tensor, Tensor], Tensor]
    """(output [n, ·], tokens [n]) → [n] or [n, ·]; each row by itself."""
    tokens: Tensor
    """[N] of the selected positions: those that come next; or [N, 1 + ·], each with further numbers for `read`."""
    tile: int
    """Positions that are read at a time."""


class Head(nn.Module):
    """A linear layer whose output may be read in tiles. The tiles are one call of one module, since ZeRO-3 gathers the
    weight for each call, on all ranks, and these may have other numbers of tiles.

    `language` [vocabulary, hidden]: a vocabulary head next to it, which stays as it is. It is no part of the model that
    is saved; where it is there, its logits stand behind the outputs."""

    def __init__(self, layer: nn.Linear, language: Tensor | None = None):
        super().__init__()
        self.weight = layer.weight
        self.register_parameter("bias", layer.bias)
        self.register_buffer("language", language, persistent=False)

    def forward(self, hidden: Tensor, reading: Reading | None = None) -> Tensor:
        """[N, hidden] → [N, outputs], or what `reading` makes of it. Of more than one tile, each is computed again in
        the backward pass."""
        if reading is None:
            return self._output(hidden)
        parts = list(zip(hidden.split(reading.tile), reading.tokens.split(reading.tile), strict=True))
        if len(parts) == 1 or not torch.is_grad_enabled():
            return torch.cat([self._read(reading, *part) for part in parts])
        return torch.cat(
            [checkpoint(self._read, reading, *part, use_reentrant=False, preserve_rng_state=False) for part in parts]
        )

    def _read(self, reading: Reading, hidden: Tensor, tokens: Tensor) -> Tensor:
        return reading.read(self._output(hidden), tokens)

    def _output(self, hidden: Tensor) -> Tensor:
        output = linear(hidden, self.weight, self.bias)
        return output if self.language is None else torch.cat([output, linear(hidden, self.language)], dim=1)


class HeadedModel(nn.Module):
    """Hidden states of all positions, the head on the selected ones only.

    Applying the vocabulary head to every position would cost batch × length × vocabulary floats, of which
    training reads the response positions alone.
    """

    def __init__(self, backbone: nn.Module, head: nn.Linear, language: Tensor | None = None):
        """`language` as of Head."""
        super().__init__()
        self.backbone = backbone
        self.head = Head(head, language)
        self.spread: Spread | None = None
        """Where the backbone computes a part of the positions only."""

    def forward(self, select: Tensor, reading: Reading | None = None, **inputs: Tensor) -> Tensor:
        """`inputs`: the family's model inputs, [B, L] and features. `select` [N]: flat positions in B·L.

        Returns the head's output, [N, vocabulary] or [N, outputs], or what `reading` makes of it.
        """
        hidden = self.backbone(**inputs, use_cache=False).logits.flatten(0, 1)
        if self.spread is not None:
            return self._of_all_ranks(self.spread, hidden, select, reading)
        output: Tensor = self.head(hidden[select], reading)
        return output

    def _of_all_ranks(self, spread: Spread, hidden: Tensor, select: Tensor, reading: Reading | None) -> Tensor:
        """`hidden`: of this rank's positions."""
        own = spread.part(len(hidden) * spread.ranks)
        mine = (select >= own.start) & (select < own.stop)
        of_mine = None if reading is None else replace(reading, tokens=reading.tokens[mine])
        return spread.joined(self.head(hidden[select[mine] - own.start], of_mine), mine)


def split_head(model: nn.Module) -> tuple[nn.Module, nn.Linear]:
    """`model` without its vocabulary head, and that head."""
    head = model.lm_head
    model.lm_head = nn.Identity()
    return model, head


def check_speaks(path: str | Path) -> None:
    """Raise ModelError for a reward model, which answers nothing."""
    if (Path(path) / SCALAR_HEAD_FILE).is_file():
        raise ModelError(
            f"{path}: expected a model that answers, but this is a reward model ({SCALAR_HEAD_FILE} is there, the "
            "vocabulary head is not); give the directory of a policy"
        )


def load_policy(adapter: ModelAdapter, path: Path, dtype: torch.dtype, device_map: str | None = None) -> HeadedModel:
    """The language model of a Hugging Face directory with its own vocabulary head. `device_map` as in adapters. Raises
    ModelError for a reward model's directory, which has no such head."""
    check_speaks(path)
    return HeadedModel(*split_head(adapter.load(path, dtype, device_map)))


def load_scalar(
    adapter: ModelAdapter,
    path: Path,
    dtype: torch.dtype,
    *,
    new_head: bool,
    layout: ScalarHead | None = None,
    seed: int = 0,
    device_map: str | None = None,
    speaking: bool = False,
) -> HeadedModel:
    """A reward model. `new_head` starts from a language model with a head of that `layout` (one output unless given);
    otherwise the directory must hold a trained head, whose layout read_scalar_head() returns. `speaking`: the
    directory's own vocabulary head stays next to the scalar one, as `language` of Head.

    Raises ModelError where a head is expected and not there, or is of another shape than its layout.
    """
    backbone, vocabulary_head = split_head(adapter.load(path, dtype, device_map))
    # A spread backbone takes and returns tensors on the device of its first layer.
    device = next(backbone.parameters()).device
    hidden = vocabulary_head.in_features
    weight = new_weight(layout or ScalarHead(), hidden, seed, dtype) if new_head else _trained_weight(path, hidden)
    # A copy: with tied weights it is the embedding, which learns.
    language = vocabulary_head.weight.detach().clone() if speaking else None
    return HeadedModel(backbone, _linear(weight, dtype, device), language)


def load_critic(adapter: ModelAdapter, path: Path, dtype: torch.dtype) -> HeadedModel:
    """A value model, whose head has one output. A reward model's starts as its score, a language model's as zero."""
    trained = (Path(path) / SCALAR_HEAD_FILE).is_file()
    model = load_scalar(adapter, path, dtype, new_head=not trained)
    weight = model.head.weight.detach()
    if len(weight) > 1:
        model.head = Head(_linear(read_scalar_head(path).combined(weight), dtype, weight.device))
    return model


def _trained_weight(path: Path, hidden: int) -> Tensor:
    weight, layout = load_file(scalar_head_file(path))["weight"], read_scalar_head(path)
    if weight.shape != (layout.outputs, hidden):
        raise ModelError(
            f"{path}/{SCALAR_HEAD_FILE}: weight expects shape {[layout.outputs, hidden]} for what {LAYOUT_FILE} says, "
            f"got {list(weight.shape)}; export the model again"
        )
    return weight


def _linear(weight: Tensor, dtype: torch.dtype, device: torch.device) -> nn.Linear:
    head = nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=dtype, device=device)
    with torch.no_grad():
        head.weight.copy_(weight)
    return head


def checkpoint_name(adapter: ModelAdapter, name: str) -> str:
    """Name in the directory's safetensors of a HeadedModel parameter with a vocabulary head."""
    return adapter.checkpoint_name(backbone_name(name))


def checkpoint_tensors(adapter: ModelAdapter, name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """A HeadedModel parameter with a vocabulary head as the directory's safetensors have it."""
    yield from adapter.checkpoint_tensors(backbone_name(name), tensor)


def backbone_name(name: str) -> str:
    """Name of a HeadedModel parameter with a vocabulary head in transformers' class."""
    return "lm_" + name if name.startswith(HEAD) else name.removeprefix("backbone.")


def part_of(adapter: ModelAdapter, name: str, *, scalar: bool) -> str:
    """The part of a HeadedModel's parameter. Raises ModelError where the adapter names none or several."""
    if scalar and name.startswith(HEAD):
        return SCALAR_HEAD
    known = backbone_name(name)
    parts = [part for part, pattern in adapter.parts.items() if re.fullmatch(pattern, known)]
    if len(parts) != 1:
        raise ModelError(
            f"{known} belongs to {' and '.join(parts) or 'no part'} of the {adapter.family} model; every parameter "
            "must belong to exactly one; fix `parts` of the family in mmrlhf_ray/models"
        )
    return parts[0]
