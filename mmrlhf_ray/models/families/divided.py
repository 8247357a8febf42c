"""Weights of a directory into a model whose parameters are divided among ranks (ZeRO-3), a parameter at a time.

transformers itself has every rank read all files and stack all experts of a mixture before the first parameter is
filled. Here the model is made without memory, and the first rank reads what one parameter is made of, of which every
rank keeps its share. Names and conversions are transformers' own, so the same directories are read as without ZeRO-3.
"""

import copy
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key
from transformers.monkey_patching import patch_output_recorders
from transformers.utils import ContextManagers

from mmrlhf_ray.errors import ModelError


@dataclass(frozen=True)
class Division:
    """How parameters are divided among ranks."""

    divide: Callable[[Sequence[nn.Parameter]], None]
    """Leaves each rank with its share of the values that the first one has, in the parameters themselves."""
    first: bool
    """Whether this is the first rank."""
    device: torch.device
    """Where parameters are before they are divided."""


_division: ContextVar[Division | None] = ContextVar("division", default=None)


@contextmanager
def dividing(division: Division) -> Iterator[None]:
    """Meanwhile models are loaded with parameters that are divided."""
    token = _division.set(division)
    try:
        yield
    finally:
        _division.reset(token)


def current_division() -> Division | None:
    return _division.get()


class WeightFiles:
    """The safetensors files of a directory, of which tensors are read one by one."""

    def __init__(self, path: Path, stack: ExitStack):
        """Opened until `stack` is closed. Raises ModelError where there are none."""
        index, names = path / "model.safetensors.index.json", {"model.safetensors"}
        if index.is_file() and not (path / "model.safetensors").is_file():
            names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        if missing := sorted(name for name in names if not (path / name).is_file()):
            raise ModelError(
                f"{path}: with zero_stage 3 weights are read from safetensors, but {missing[0]} is not there; copy all "
                "files of the model, or convert them"
            )
        self._holder: dict[str, Any] = {}
        for name in sorted(names):
            file = stack.enter_context(safe_open(path / name, framework="pt"))
            self._holder |= dict.fromkeys(file.keys(), file)

    def names(self) -> list[str]:
        """In transformers' order, in which experts stand by their numbers."""
        return sorted(self._holder, key=dot_natural_key)

    def read(self, name: str) -> Tensor:
        tensor: Tensor = self._holder[name].get_tensor(name)
        return tensor

    def outline(self, name: str) -> Tensor:
        """A tensor of the same shape on the meta device."""
        return torch.empty(self._holder[name].get_slice(name).get_shape(), device="meta")


@dataclass(frozen=True)
class Piece:
    """Tensors of the files that become a parameter or a buffer, or a few of them, together."""

    target: str
    """The first one's name in the model."""
    sources: dict[str, list[str]]
    """Pattern of the converter → names in the files, in their order."""
    converter: WeightConverter | None
    """None: the tensor is taken as it is."""

    def convert(self, model: PreTrainedModel, read: Callable[[str], Tensor]) -> dict[str, Tensor]:
        """Name in the model → value, of what `read` returns for a name in the files."""
        if self.converter is None:
            ((name, *_),) = self.sources.values()
            return {self.target: read(name)}
        converter = copy.deepcopy(self.converter)
        for pattern, names in self.sources.items():
            for name in names:
                converter.add_tensor(self.target, name, pattern, read(name))
        made = converter.convert(self.target, model=model, config=model.config)
        return {name: value[0] if isinstance(value, list) else value for name, value in made.items()}


@dataclass(frozen=True)
class Plan:
    """What becomes of which tensors of the files; the same on every rank, made of their headers alone."""

    pieces: Mapping[tuple[str, ...], Piece]
    """By the names in the model that it fills."""
    missing: set[str]
    """What the model needs and the files lack."""
    mismatched: Sequence[tuple[str, Sequence[int], Sequence[int]]]
    """Name, shape in the files, shape in the model."""


def empty_model(model_class: type[PreTrainedModel], path: Path, dtype: torch.dtype) -> PreTrainedModel:
    """The model that `path` says, as from_pretrained() makes it before it reads weights: on the meta device."""
    config = model_class.config_class.from_pretrained(str(path))
    for part in (config, *(getattr(config, key) for key in config.sub_configs)):
        if part is not None:
            part.dtype = dtype
    with ContextManagers(model_class.get_init_context(dtype, False, False, False)):
        model = model_class(config)
        patch_output_recorders(model)
    return model


def plan(model: PreTrainedModel, files: WeightFiles) -> Plan:
    """How `model` is filled. Ties its weights as from_pretrained() does: where the files have one of two that are tied,
    or both and the same."""
    wanted = model.state_dict()
    pieces: dict[tuple[str, ...], Piece] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for piece in _pieces(model, files.names(), wanted):
        made = {n: tuple(t.shape) for n, t in piece.convert(model, files.outline).items() if n in wanted}
        if made:
            pieces[tuple(made)] = piece
        shapes |= made
    missing = wanted.keys() - shapes.keys()
    _tie(model, pieces, missing, files)
    ignored = [re.compile(pattern) for pattern in model._keys_to_ignore_on_load_missing or ()]
    missing = {name for name in missing if not any(pattern.search(name) for pattern in ignored)}
    expected = {name: tuple(tensor.shape) for name, tensor in wanted.items()}
    mismatched = [(name, shape, expected[name]) for name, shape in shapes.items() if shape != expected[name]]
    return Plan(pieces, missing, mismatched)


def _pieces(model: PreTrainedModel, names: Sequence[str], wanted: Mapping[str, Tensor]) -> list[Piece]:
    """What fills `model`, of all `names` in the files; each under the name that from_pretrained() finds for it."""
    transforms = get_model_conversion_mapping(model)
    renamings = [each for each in transforms if isinstance(each, WeightRenaming)]
    converters = [each for each in transforms if isinstance(each, WeightConverter)]
    by_pattern = {pattern: converter for converter in converters for pattern in converter.source_patterns}
    prefix = model.base_model_prefix
    found: dict[str, Piece] = {}
    for name in names:
        target, pattern = rename_source_key(name, renamings, converters, prefix, wanted)
        if target not in wanted and name in wanted:
            target, pattern = rename_source_key(name, [], [], prefix, wanted)
        if target in wanted:
            piece = found.setdefault(target, Piece(target, {}, by_pattern[pattern] if pattern else None))
            piece.sources.setdefault(pattern or name, []).append(name)
    return list(found.values())


def _tie(
    model: PreTrainedModel, pieces: Mapping[tuple[str, ...], Piece], missing: set[str], files: WeightFiles
) -> None:
    """tie_weights(), which takes out of `missing` what it ties, but cannot compare what has no values yet."""
    for pair in list(model.all_tied_weights_keys.items()):
        both = [pieces[(name,)].convert(model, files.read)[name] for name in pair if (name,) in pieces]
        if len(both) == 2 and torch.equal(*both):
            missing.add(pair[0])  # as good as missing
        elif len(both) == 2:
            model.all_tied_weights_keys.pop(pair[0])
    model.tie_weights(missing_keys=missing, recompute_mapping=False)


def fill(model: PreTrainedModel, reading: Plan, files: WeightFiles, division: Division) -> None:
    """Read all weights. Besides its shares a rank holds one piece at most, and the first rank what that is made of. A
    reward model's vocabulary head, which nothing reads, stays without memory. A collective."""
    _compute_buffers(model)
    names_of: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names_of.setdefault(id(parameter), []).append(name)
    for names, piece in reading.pieces.items():
        targets = [model.get_parameter_or_buffer(name) for name in names]
        parameters = [target for target in targets if isinstance(target, nn.Parameter)]
        if parameters and not any(parameter.is_meta for parameter in parameters):
            continue  # tied to one that was read
        reads = division.first or not parameters  # buffers are everywhere
        values = piece.convert(model, files.read) if reads else {}
        if not parameters:
            for name, target in zip(names, targets, strict=True):
                target.copy_(values[name])
            continue
        made = []
        for name, target in zip(names, targets, strict=True):
            made.append(_with_memory(target, values.pop(name, None), division.device))
            for known_as in names_of[id(target)]:
                owner, _, leaf = known_as.rpartition(".")
                setattr(model.get_submodule(owner), leaf, made[-1])
        division.divide(made)


def _with_memory(parameter: nn.Parameter, value: Tensor | None, device: torch.device) -> nn.Parameter:
    """`parameter` with a value, or with any."""
    if value is None:
        value = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
    return nn.Parameter(value.to(device, parameter.dtype).contiguous(), requires_grad=parameter.requires_grad)


def _compute_buffers(model: PreTrainedModel) -> None:
    """Give buffers memory, and their values to those that are computed, as from_pretrained() does."""
    for name, buffer in list(model.named_buffers()):
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, torch.empty_like(buffer, device="cpu"))
    for parameter in model.parameters():
        parameter._is_hf_initialized = True
    model.initialize_weights()
