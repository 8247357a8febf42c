"""Models with weights of eight bits, in the format of compressed-tensors, which vLLM and transformers load."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.compressors.format import infer_module_format
from compressed_tensors.quantization import (
    QuantizationArgs,
    QuantizationConfig,
    QuantizationScheme,
    QuantizationStatus,
    QuantizationStrategy,
    QuantizationType,
)
from compressed_tensors.quantization.utils import calculate_qparams
from torch import Tensor, nn

from mmrlhf_ray.errors import ModelError
from mmrlhf_ray.models.adapter import ModelAdapter
from mmrlhf_ray.models.average import OpenedWeights
from mmrlhf_ray.models.export import written_model
from mmrlhf_ray.models.headed import check_speaks

_KEY = "quantization_config"
_WEIGHT = ".weight"
_STORED = ("weight", "weight_packed", "weight_scale", "weight_shape")


def _args(kind: QuantizationType, strategy: QuantizationStrategy, dynamic: bool) -> QuantizationArgs:
    return QuantizationArgs(num_bits=8, type=kind, strategy=strategy, symmetric=True, dynamic=dynamic)


def _scheme(kind: QuantizationType, inputs_too: bool) -> QuantizationScheme:
    """One scale for each output of a layer; `inputs_too`: and one for each token, found while the model runs."""
    inputs = _args(kind, QuantizationStrategy.TOKEN, dynamic=True) if inputs_too else None
    weights = _args(kind, QuantizationStrategy.CHANNEL, dynamic=False)
    return QuantizationScheme(targets=["Linear"], weights=weights, input_activations=inputs)


SCHEMES: Mapping[str, QuantizationScheme] = {
    "fp8": _scheme(QuantizationType.FLOAT, inputs_too=False),
    "int8": _scheme(QuantizationType.INT, inputs_too=False),
    "fp8-dynamic": _scheme(QuantizationType.FLOAT, inputs_too=True),
    "int8-dynamic": _scheme(QuantizationType.INT, inputs_too=True),
}
"""Value of `--quantize` → what is rounded: weights alone, or with `-dynamic` what comes into a layer as well."""


@dataclass(frozen=True)
class Layers:
    """The linear layers of a model."""

    rounded: frozenset[str]
    """Of the language model's blocks, by their names in its safetensors."""
    kept: frozenset[str]
    """Vocabulary head, towers and projectors, which are small and whose rounding costs most. By their names there, for
    vLLM, and in transformers' class, which looks for these; neither minds the other's."""

    @property
    def ignored(self) -> list[str]:
        """Patterns of everything that is kept, as compressed-tensors has them in `ignore`.

        Of whole parts of the model, not of their layers: vLLM joins layers under names of its own (a tower's q, k and v
        become `attn.qkv`), and would round what it finds in no list, from weights that are not rounded.
        """
        blocks = {part for name in self.rounded for part in name.split(".")}
        parts = {next(part for part in name.split(".") if part not in blocks) for name in self.kept}
        return [rf"re:(.*\.)?{re.escape(part)}(\..*)?$" for part in sorted(parts)]


def layers_of(adapter: ModelAdapter, source: Path) -> Layers:
    """Which layers of the model in `source` are rounded: those of the language model's blocks. Raises ModelError for a
    reward model, for one that is rounded already, and for a mixture of experts, whose experts are no linear layers."""
    check_speaks(source)
    if _KEY in json.loads((source / "config.json").read_text(encoding="utf-8")):
        raise ModelError(
            f"{source}: expected a model with weights as trained, but config.json has {_KEY}; give that one"
        )
    model = adapter.architecture(source)
    inside = re.compile(rf"(?:{adapter.language_model})\..*")
    stacked = next((n for n, p in model.named_parameters() if p.ndim == 3 and inside.fullmatch(n)), None)
    if stacked is not None:
        raise ModelError(
            f"{source}: {stacked} holds the weights of several experts, and a mixture of experts cannot be rounded; "
            "export it without --quantize"
        )
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    names = {name: adapter.checkpoint_name(name + _WEIGHT).removesuffix(_WEIGHT) for name in linear}
    rounded = frozenset(own for name, own in names.items() if inside.fullmatch(name))
    if not rounded:
        raise ModelError(f"{source}: expected linear layers in its language model, found none; it cannot be rounded")
    kept = {name: own for name, own in names.items() if own not in rounded}
    return Layers(rounded, frozenset(kept) | frozenset(kept.values()))


def quantize_model(source: Path, target: Path, layers: Layers, kind: str) -> None:
    """Write the model in `source` to `target` with `layers.rounded` as SCHEMES[kind] says; all else stays as it is to
    the bit. One tensor is in memory at a time. Raises ModelError where `source` lacks one of these layers."""
    scheme = SCHEMES[kind]
    form = infer_module_format(nn.Linear, scheme)
    compressor = BaseCompressor.get_value_from_registry(form.value)

    def tensors() -> Iterator[tuple[str, Tensor]]:
        with ExitStack() as stack:
            opened = OpenedWeights(source, stack)
            missing = sorted(name for name in layers.rounded if name + _WEIGHT not in opened.shapes)
            if missing:
                raise ModelError(f"{source}: its safetensors lack {missing[0]}{_WEIGHT}; export the model again")
            for name in opened.shapes:
                layer, tensor = name.removesuffix(_WEIGHT), opened.tensor(name)
                if not name.endswith(_WEIGHT) or layer not in layers.rounded:
                    yield name, tensor
                    continue
                state = {"weight": tensor, "weight_scale": _scale(tensor, scheme)}
                for own, stored in compressor.compress(state, scheme).items():
                    yield f"{layer}.{own}", stored

    config = QuantizationConfig(
        config_groups={"group_0": scheme},
        format=form.value,
        quantization_status=QuantizationStatus.COMPRESSED,
        ignore=layers.ignored,
    )
    with written_model(source, target, tensors()) as fresh:
        file = fresh / "config.json"
        described = json.loads(file.read_text(encoding="utf-8")) | {_KEY: config.model_dump(mode="json")}
        file.write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")


def round_layers(model: nn.Module, adapter: ModelAdapter, directory: Path, layers: Layers, kind: str) -> None:
    """Have `model`, in transformers' class and with the weights that the one in `directory` was made from, compute as
    that one does: with its weights, and where SCHEMES[kind] says so with rounded inputs."""
    from compressed_tensors.quantization import initialize_module_for_quantization

    scheme = SCHEMES[kind]
    compressor = BaseCompressor.get_value_from_registry(infer_module_format(nn.Linear, scheme).value)
    inputs = scheme.model_copy(update={"weights": None})
    with ExitStack() as stack, torch.no_grad():
        opened = OpenedWeights(directory, stack)
        for name, module in list(model.named_modules()):
            layer = adapter.checkpoint_name(name + _WEIGHT).removesuffix(_WEIGHT)
            if not isinstance(module, nn.Linear) or layer not in layers.rounded:
                continue
            state = {own: opened.tensor(f"{layer}.{own}") for own in _STORED if f"{layer}.{own}" in opened.shapes}
            module.weight.copy_(compressor.decompress(state, scheme)["weight"])
            if inputs.input_activations is not None:
                initialize_module_for_quantization(module, inputs)


def _scale(weight: Tensor, scheme: QuantizationScheme) -> Tensor:
    """[out, 1] in the weight's dtype."""
    least, most = weight.amin(dim=1, keepdim=True), weight.amax(dim=1, keepdim=True)
    scale: Tensor = calculate_qparams(least, most, scheme.weights)[0]
    return scale
