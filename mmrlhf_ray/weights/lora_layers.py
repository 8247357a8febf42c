"""What vLLM's workers say of the layers that an adapter is for: methods that every worker of an engine gets."""

from collections.abc import Iterable
from typing import Any

from torch import nn
from vllm.lora.utils import parse_fine_tuned_lora_name

WORKER_EXTENSION = f"{__name__}.LoRALayers"


class LoRALayers:
    """vLLM's `worker_extension_cls`: mixed into its worker, called through collective_rpc()."""

    get_model: Any
    """The worker's own."""

    def adapter_gaps(self, names: Iterable[str], targets: Iterable[str]) -> tuple[list[str], list[str]]:
        """Tensors for which the model has no layer, and its targeted layers for which there is no tensor. vLLM itself
        ignores names that it does not know."""
        return _gaps(self.get_model(), names, targets)


def _gaps(model: nn.Module, names: Iterable[str], targets: Iterable[str]) -> tuple[list[str], list[str]]:
    manager, mapper = model.lora_manager, getattr(model, "hf_to_vllm_mapper", None)
    renamer = mapper.get_rename_mapper() if mapper is not None else None
    layers = set()
    for fused in manager.modules:
        parent, _, leaf = fused.rpartition(".")
        layers |= {f"{parent}.{part}" for part in manager.packed_modules_mapping.get(leaf, [leaf])}
    got = {name: parse_fine_tuned_lora_name(name, renamer) for name in names}
    wanted = {layer for layer in layers if any(f".{layer}".endswith(f".{target}") for target in targets)}
    homeless = [name for name, (layer, _) in got.items() if layer not in layers]
    silent = {(layer, is_a) for layer in wanted for is_a in (True, False)} - set(got.values())
    return homeless, sorted(f"{layer}.lora_{'A' if is_a else 'B'}" for layer, is_a in silent)
