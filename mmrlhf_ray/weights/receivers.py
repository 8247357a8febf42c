"""Where a generator's weight updates go: into vLLM's weights, or next to them as an adapter of vLLM's own LoRA.

An adapter is not merged into the weights: in bfloat16 a small update would be lost to rounding there, and learner and
sampler would disagree about it.
"""

import shutil
import tempfile
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
from safetensors.torch import save_file
from torch import Tensor, nn
from vllm import LLM
from vllm.config.lora import MaxLoRARanks
from vllm.lora.request import LoRARequest
from vllm.lora.utils import parse_fine_tuned_lora_name

from mmrlhf_ray.config.base import LoRAConfig
from mmrlhf_ray.errors import RunError
from mmrlhf_ray.models import ModelAdapter
from mmrlhf_ray.models.lora import peft_config
from mmrlhf_ray.weights.buckets import TensorLayout, unpack


def adapter_arguments(lora: LoRAConfig) -> dict[str, Any]:
    """Arguments of an LLM that takes one such adapter."""
    reserved = min(rank for rank in get_args(MaxLoRARanks) if rank >= lora.rank)
    return {"enable_lora": True, "max_lora_rank": reserved, "max_loras": 1, "max_cpu_loras": 1}


class SessionReceiver:
    """Takes all weights of the model, through a vLLM weight-update session."""

    lora_request = None

    def __init__(self, llm: LLM):
        self._llm = llm

    def start(self) -> None:
        self._llm.start_weight_update()

    def receive(self, layout: list[TensorLayout], payload: np.ndarray) -> None:
        """Raises RunError for a name the model does not have."""
        self._llm.update_weights({"update_info": {"layout": layout, "payload": payload}})

    def finish(self, policy_version: int) -> None:
        """Raises RunError for a parameter that got no weight."""
        self._llm.finish_weight_update(str(policy_version))


class AdapterReceiver:
    """Takes buckets of an adapter's tensors under their checkpoint names, then hands vLLM a directory with all of
    them: that is the only form in which it takes adapters.
    """

    def __init__(self, llm: LLM, adapter: ModelAdapter, lora: LoRAConfig):
        self._llm, self._adapter, self._lora = llm, adapter, lora
        self._directory = tempfile.TemporaryDirectory(prefix="mmrlhf-adapter-")
        self._tensors: dict[str, Tensor] = {}
        self._number = 0
        self.lora_request: LoRARequest | None = None
        """For every request; None before the first push, when the adapter changes nothing."""

    def start(self) -> None:
        self._tensors = {}

    def receive(self, layout: list[TensorLayout], payload: np.ndarray) -> None:
        self._tensors |= dict(unpack(layout, payload))

    def finish(self, policy_version: int) -> None:
        """Raises RunError when names and the sampler's layers do not match one to one."""
        compare = partial(_compare, names=list(self._tensors), targets=self._lora.target_modules)
        for homeless, silent in self._llm.apply_model(compare):
            _refuse(homeless, silent)
        path = self._write()
        self._number += 1  # vLLM takes an adapter that has a known number for the one it has
        request = LoRARequest(f"policy-{policy_version}-{self._number}", self._number, str(path))
        if not self._llm.llm_engine.add_lora(request):
            raise RuntimeError(f"the sampler did not take the adapter of policy version {policy_version}")
        self.lora_request = request

    def _write(self) -> Path:
        path = Path(self._directory.name) / "adapter"
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        save_file({f"base_model.model.{n}": t for n, t in self._tensors.items()}, path / "adapter_model.safetensors")
        peft_config(self._adapter, self._lora).save_pretrained(str(path))
        return path


def _compare(model: nn.Module, names: Iterable[str], targets: Iterable[str]) -> tuple[list[str], list[str]]:
    """Tensors for which `model` has no layer, and its targeted layers for which there is no tensor. Runs in vLLM's
    workers. vLLM itself ignores names that it does not know.
    """
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


def _refuse(homeless: list[str], silent: list[str]) -> None:
    if homeless:
        raise RunError(
            f"weight push: the sampler has no layer for {len(homeless)} of the adapter's tensors: "
            f"{', '.join(homeless[:5])} …; fix checkpoint_name() of the family in mmrlhf_ray/models"
        )
    if silent:
        raise RunError(
            f"weight push: the learner sent nothing for {len(silent)} of the sampler's adapter tensors: "
            f"{', '.join(silent[:5])} …; fix checkpoint_name() of the family in mmrlhf_ray/models"
        )
