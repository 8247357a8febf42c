"""vLLM's receiving end for weights that arrive through the Ray object store.

Registered with vLLM's own engine factory; a bucket is a packed buffer and the layout of the tensors in it.
"""

from dataclasses import dataclass
from typing import Any

import torch
from vllm.config import VllmConfig, WeightTransferConfig
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload
from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info

from mmrlhf_ray.errors import RoleFailed, RunError
from mmrlhf_ray.runtime.processes import end_with_parent
from mmrlhf_ray.weights.buckets import unpack
from mmrlhf_ray.weights.layout import TensorLayout
from mmrlhf_ray.weights.shared import SharedBucket

OBJECT_STORE = "mmrlhf_object_store"
REFUSED = "weight push: "
"""Starts the message of every RunError here."""
ABANDONED = "weight push: broken off"
"""Starts the message with which a session ends that is not finished."""
_WHY = 200  # characters of vLLM's own message, which may list every parameter


@dataclass
class ObjectStoreInitInfo(WeightTransferInitInfo):
    """Nothing to agree on: every bucket describes itself."""


@dataclass
class ObjectStoreUpdateInfo(WeightTransferUpdateInfo):
    """One bucket."""

    layout: list[dict[str, Any]]
    """TensorLayouts, as dicts: classes do not survive the way into the engine's process."""
    name: str
    """As in SharedBucket; "" = there will be no more, the session is over."""
    nbytes: int


class ObjectStoreWeightTransferEngine(WeightTransferEngine[ObjectStoreInitInfo, ObjectStoreUpdateInfo]):
    """Loads buckets in checkpoint format through vLLM's layer-wise reload."""

    init_info_cls = ObjectStoreInitInfo
    update_info_cls = ObjectStoreUpdateInfo

    def __init__(
        self, config: WeightTransferConfig, vllm_config: VllmConfig, device: torch.device, model: torch.nn.Module
    ) -> None:
        super().__init__(config, vllm_config, device, model)
        self._taken: set[tuple[str, str, tuple[int, ...]]] = set()
        """Name, dtype and shape of every tensor that the model has taken."""

    def init_transfer_engine(self, init_info: ObjectStoreInitInfo) -> None:
        """No connection is needed."""

    def start_weight_update(self) -> None:
        self._loaded: set[str] = set()
        self._tied = _tied(self.model)
        for layer in self.model.modules():
            info = get_layerwise_info(layer)
            if info.can_load():  # some of it came in a session that was broken off, and must not count for this one
                info.loaded_weights.clear()
                info.load_numel = 0
        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        # The base class synchronises an accelerator, which a CPU build does not have.
        self.receive_weights(self.parse_update_info(update_info))
        if self.device.type != "cpu":
            torch.accelerator.synchronize()

    def receive_weights(self, update_info: ObjectStoreUpdateInfo) -> None:
        """Raises RunError when the model takes no parameter from some tensor of the bucket, RoleFailed to break the
        session off: vLLM ends one in no other way."""
        if not update_info.name:
            raise RoleFailed(ABANDONED)
        layout = [TensorLayout(**item) for item in update_info.layout]
        tensors = unpack(layout, SharedBucket(layout, update_info.name, update_info.nbytes).payload())
        forms = {(item.name, item.dtype, tuple(item.shape)) for item in layout}
        if forms <= self._taken:  # all of them had their places in an earlier push
            self._loaded |= self.model.load_weights([(name, tensor.to(self.device)) for name, tensor in tensors])
            return
        for name, tensor in tensors:
            self._loaded |= self._load(name, tensor)
        self._taken |= forms

    def _load(self, name: str, tensor: torch.Tensor) -> set[str]:
        """By itself, so that what has no place is known by its name."""
        try:
            loaded: set[str] = self.model.load_weights([(name, tensor.to(self.device))])
        except (ValueError, KeyError, AssertionError, RuntimeError) as error:  # what vLLM's loaders raise
            raise self._refused(name, tensor, f": {error}") from error
        if not loaded:
            raise self._refused(name, tensor, "")
        return loaded

    def _refused(self, name: str, tensor: torch.Tensor, why: str) -> RunError:
        return RunError(
            f"{REFUSED}the sampler's {type(self.model).__name__} has no place for {name!r} {list(tensor.shape)}; "
            "use versions of transformers and vLLM that name this model's weights alike (constraints/), or fix "
            f"checkpoint_name() of its family in mmrlhf_ray/models{why[:_WHY]}"
        )

    def finish_weight_update(self) -> None:
        """Raises RunError when some parameter of the model got no weight in this session."""
        tied = {name for name, owner in self._tied.items() if owner in self._loaded}
        silent = {name for name, _ in self.model.named_parameters()} - self._loaded - tied
        if silent:
            raise RunError(
                f"{REFUSED}the learner sent nothing for {len(silent)} of the sampler's parameters: "
                f"{', '.join(sorted(silent)[:5])} …; fix checkpoint_name() of the family in mmrlhf_ray/models"
            )
        finalize_layerwise_reload(self.model, self.model_config)
        for name in tied:  # it has the new values, but what was computed from the old ones is of the old ones
            module = self.model.get_submodule(name.rpartition(".")[0])
            module.quant_method.process_weights_after_loading(module)
        if self.device.type == "cpu":
            _pack_experts(self.model)

    def shutdown(self) -> None:
        """Nothing is held open."""


def _tied(model: torch.nn.Module) -> dict[str, str]:
    """Parameters that are another one under a second name → its first name: a vocabulary head that is the embedding."""
    first: dict[int, str] = {}
    names = {name: first.setdefault(id(p), name) for name, p in model.named_parameters(remove_duplicate=False)}
    return {name: owner for name, owner in names.items() if name != owner}


def _pack_experts(model: torch.nn.Module) -> None:
    """vLLM packs a layer's experts for its CPU kernel when they are loaded first, but not when they are updated."""
    for module in model.modules():
        kernel = getattr(getattr(module, "quant_method", None), "moe_kernel", None)
        if kernel is not None:
            kernel.fused_experts.process_weights_after_loading(module)


def register() -> None:
    """Make the engine known to vLLM. vLLM calls this in each of its processes, as the plugin of pyproject.toml; those
    that it started itself end with the process that started them."""
    end_with_parent()
    if OBJECT_STORE not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(OBJECT_STORE, ObjectStoreWeightTransferEngine)
