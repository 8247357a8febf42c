"""The parts of a model, identified by their parameters' names: which are trained, and how fast."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from mmrlhf_ray.config.parts import LoRAConfig, PartConfig, PartsConfig
from mmrlhf_ray.errors import ModelError
from mmrlhf_ray.models.adapter import ModelAdapter
from mmrlhf_ray.models.families.registry import adapter_for
from mmrlhf_ray.models.headed import HeadedModel, part_of, split_head
from mmrlhf_ray.models.lora import add_lora


@dataclass(frozen=True)
class ParameterGroup:
    """Trained parameters with one learning rate."""

    name: str
    """The part that has its own rate, or "" for all others."""
    lr: float
    parameters: tuple[nn.Parameter, ...]


def freeze_parts(model: HeadedModel, adapter: ModelAdapter, parts: PartsConfig, *, scalar: bool) -> None:
    """Stop the gradient at the parameters of parts that are not trained."""
    if parts == PartsConfig():
        return
    for name, parameter in model.named_parameters():
        if not _config_of(parts, part_of(adapter, name, scalar=scalar)).train:
            parameter.requires_grad_(False)


def parameter_groups(
    model: HeadedModel, adapter: ModelAdapter, parts: PartsConfig, lr: float, *, scalar: bool
) -> list[ParameterGroup]:
    """Trained parameters: those without their own learning rate first, then each part that has one."""
    if parts == PartsConfig():
        return [ParameterGroup("", lr, tuple(p for p in model.parameters() if p.requires_grad))]
    found: dict[str, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        part = part_of(adapter, name, scalar=scalar)
        if parameter.requires_grad:
            found.setdefault(part if _config_of(parts, part).lr else "", []).append(parameter)
    return [ParameterGroup(p, _config_of(parts, p).lr or lr, tuple(found[p])) for p in sorted(found)]


def check_trained(path: str | Path, parts: PartsConfig, lora: LoRAConfig | None, section: str, *, scalar: bool) -> int:
    """How many parameters of the model in `path` are trained, from its configuration alone. `section`: of the run's
    configuration that holds `parts` and `lora`, with a dot behind it, or "".

    Raises ModelError for a part that the family lacks, for nothing to train, and as add_lora() does.
    """
    adapter = adapter_for(Path(path))
    for part in PartsConfig.model_fields:
        if part not in adapter.parts and getattr(parts, part) != PartConfig():
            raise ModelError(
                f"{section}parts.{part}: a {adapter.family} model has no such part; it has {', '.join(adapter.parts)}"
            )
    backbone, head = split_head(adapter.architecture(Path(path)))
    if scalar:
        head = nn.Linear(head.in_features, 1, bias=False, device="meta")
    model = HeadedModel(backbone, head)
    if lora is not None:
        add_lora(model, adapter, lora, train_head=scalar, seed=0)
    freeze_parts(model, adapter, parts, scalar=scalar)
    trained = _count(p for p in model.parameters() if p.requires_grad)
    if not trained:
        raise ModelError(f"{section}parts: no part of the {adapter.family} model is trained; set `train` of one")
    return trained


def _config_of(parts: PartsConfig, part: str) -> PartConfig:
    config: PartConfig = getattr(parts, part, PartConfig())
    return config


def _count(parameters: Iterable[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)
