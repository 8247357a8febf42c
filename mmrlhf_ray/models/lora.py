"""Low-rank adapters (Hu et al. 2021): peft's layers in a HeadedModel, and the parts that learn in full beside them."""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mmrlhf_ray.config.parts import LoRAConfig, PartName
from mmrlhf_ray.errors import ModelError
from mmrlhf_ray.models.adapter import ModelAdapter
from mmrlhf_ray.models.headed import HeadedModel, part_of

if TYPE_CHECKING:  # peft takes a while to import, and most roles have no adapter
    from peft import LoraConfig
    from peft.tuners.lora import LoraLayer

_ADAPTER = "default"
"""The name that peft gives an unnamed adapter."""


@dataclass(frozen=True)
class Weight:
    """A tensor to be sent or written, and the parameters that it is made of."""

    name: str
    parameters: tuple[nn.Parameter, ...]
    scaling: float | None = None
    """alpha / rank of an adapter that is merged; `parameters` are then the weight, A and B."""

    @property
    def nbytes(self) -> int:
        """Of the gathered parameters."""
        return sum(int(getattr(p, "ds_numel", p.numel())) * p.element_size() for p in self.parameters)

    @property
    def outline(self) -> Tensor:
        """Shape and dtype of value(), without values; nothing must be gathered for it."""
        weight = self.parameters[0]
        return torch.empty(getattr(weight, "ds_shape", weight.shape), dtype=weight.dtype, device="meta")

    @torch.no_grad()
    def value(self) -> Tensor:
        """The parameter, or W + alpha/rank · B·A (Hu et al. 2021, section 4.1). The parameters must be gathered."""
        weight = self.parameters[0].detach()
        if self.scaling is None:
            return weight
        a, b = (p.detach().float() for p in self.parameters[1:])
        return (weight.float() + self.scaling * (b @ a)).to(weight.dtype)


def add_lora(model: HeadedModel, adapter: ModelAdapter, config: LoRAConfig, *, train_head: bool, seed: int) -> None:
    """Freeze `model` but for `config.also_train`, and put a trainable adapter next to the linear layers that `config`
    names; `train_head` leaves a scalar head trainable too. The outputs stay as they are, since B starts as zeros; A is
    drawn from `seed`.

    Raises ModelError as check_targets().
    """
    from peft import inject_adapter_in_model

    modules = check_targets(model.backbone, adapter, config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(peft_config(adapter, config, modules), model.backbone)  # and freezes all else of it
    model.head.requires_grad_(train_head)
    if config.also_train:
        for name, parameter in model.named_parameters():
            if part_of(adapter, name, scalar=train_head) in config.also_train:
                parameter.requires_grad_(True)


def peft_config(
    adapter: ModelAdapter, config: LoRAConfig, modules: Sequence[str] = (), base: str | None = None
) -> "LoraConfig":
    """The same adapter as a configuration of peft. `modules`: full names of all that has one, which only towers and
    projectors need. `base`: directory of the model that it belongs to."""
    from peft import LoraConfig

    return LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # type: ignore[arg-type]  # peft only divides it
        lora_dropout=config.dropout,
        target_modules=_pattern(adapter, config.target_modules) if config.can_be_sent else list(modules),
        base_model_name_or_path=base,
    )


def _pattern(adapter: ModelAdapter, targets: Iterable[str]) -> str:
    """Regular expression of the full names of all targeted modules of the language model; the bare names occur in media
    towers as well."""
    return rf"{adapter.language_model}\.(.*\.)?({'|'.join(map(re.escape, targets))})"


def check_targets(backbone: nn.Module, adapter: ModelAdapter, config: LoRAConfig) -> list[str]:
    """Full names of the linear layers that get an adapter.

    Raises ModelError for a part that the family lacks, a target that is not a linear layer of any of `config.parts`,
    and a part of which no layer is named.
    """
    _check_parts(adapter, config)
    of_parts = {part: _linear_layers(backbone, adapter, part) for part in config.parts}
    wanted = re.compile(rf"(.*\.)?({'|'.join(map(re.escape, config.target_modules))})")
    found = {part: [name for name in names if wanted.fullmatch(name)] for part, names in of_parts.items()}
    where = " or ".join(part.replace("_", " ") for part in config.parts)
    for target in config.target_modules:
        if not any(f".{name}".endswith(f".{target}") for names in found.values() for name in names):
            raise ModelError(
                f"lora.target_modules names {target!r}, which is not a linear layer of the {adapter.family} {where}; "
                f"it has {_called(name for names in of_parts.values() for name in names)}"
            )
    for part, names in found.items():
        if not names:
            raise ModelError(
                f"lora.parts names {part}, of which lora.target_modules has no linear layer; it has "
                f"{_called(of_parts[part])}"
            )
    return [name for names in found.values() for name in names]


def _check_parts(adapter: ModelAdapter, config: LoRAConfig) -> None:
    for key in ("parts", "also_train"):
        named: tuple[PartName, ...] = getattr(config, key)
        for part in named:
            if part not in adapter.parts:
                raise ModelError(
                    f"lora.{key}: a {adapter.family} model has no {part}; it has {', '.join(adapter.parts)}"
                )


def _linear_layers(backbone: nn.Module, adapter: ModelAdapter, part: PartName) -> list[str]:
    linear = [name for name, module in backbone.named_modules() if isinstance(module, nn.Linear)]
    if part == "language_model":
        return [name for name in linear if re.match(rf"{adapter.language_model}\.", name)]
    return [name for name in linear if part_of(adapter, f"backbone.{name}.weight", scalar=True) == part]


def _called(modules: Iterable[str]) -> str:
    """The names that `target_modules` knows these by: the last part, with what stands before a number."""
    return ", ".join(sorted({m.group() for name in modules if (m := re.search(r"[^.]+(\.\d+)?$", name))}))


@contextmanager
def lora_off(model: nn.Module) -> Iterator[None]:
    """Meanwhile `model` computes what it did before the adapter was added (the head apart, where that is trained)."""
    layers = _layers(model)
    if not layers:
        raise ValueError("the model has no adapter that could be switched off; set lora in its configuration")
    for layer in layers.values():
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers.values():
            layer.enable_adapters(True)


def grouped(weights: Iterable[Weight], max_bytes: int) -> Iterator[list[Weight]]:
    """Groups of at most `max_bytes`; a larger weight is a group by itself."""
    group: list[Weight] = []
    size = 0
    for weight in weights:
        if group and size + weight.nbytes > max_bytes:
            yield group
            group, size = [], 0
        group.append(weight)
        size += weight.nbytes
    if group:
        yield group


def merged_weights(model: nn.Module) -> Iterator[Weight]:
    """Everything under the names it has without an adapter; an adapter is merged into what it belongs to."""
    layers = _layers(model)
    for name, parameter in model.named_parameters():
        owner, _, leaf = name.rpartition(".base_layer.")
        if owner and leaf == "weight":
            layer = layers[owner]
            factors = (layer.lora_A[_ADAPTER].weight, layer.lora_B[_ADAPTER].weight)
            yield Weight(f"{owner}.{leaf}", (parameter, *factors), layer.scaling[_ADAPTER])
        elif not _is_lora(name):
            yield Weight(f"{owner}.{leaf}" if owner else name, (parameter,))


def trained_weights(model: nn.Module) -> Iterator[Weight]:
    """Parameters that are not frozen; of an adapter `….lora_A.weight` [rank, in] and `….lora_B.weight` [out, rank]."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            yield Weight(name.replace(f".{_ADAPTER}.", ".") if _is_lora(name) else name, (parameter,))


def _is_lora(name: str) -> bool:
    return ".lora_A." in name or ".lora_B." in name


def _layers(model: nn.Module) -> "dict[str, LoraLayer]":
    if not any(_is_lora(name) for name, _ in model.named_parameters()):
        return {}
    from peft.tuners.lora import LoraLayer

    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}
