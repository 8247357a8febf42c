"""vLLM's receiving end for weights that arrive through the Ray object store, and how our engines get known to vLLM.

A bucket is a packed buffer and the layout of the tensors in it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from vllm.config import VllmConfig, WeightTransferConfig
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory, WeightTransferTrainerFactory

from mmrlhf_ray.config.weights import WeightTransport
from mmrlhf_ray.runtime.processes import end_with_parent
from mmrlhf_ray.weights.buckets import Buffers, views
from mmrlhf_ray.weights.layout import TensorLayout
from mmrlhf_ray.weights.loading import Loading, end_if_abandoned
from mmrlhf_ray.weights.shared import SharedBucket

OBJECT_STORE = "mmrlhf_object_store"
GLOO = "mmrlhf_gloo"
IPC = "mmrlhf_ipc"
NCCL = "mmrlhf_nccl"
BACKENDS: Mapping[WeightTransport, str] = {"object_store": OBJECT_STORE, "gloo": GLOO, "ipc": IPC, "nccl": NCCL}
"""vLLM's names of our transports' engines."""
_DIRECT = (
    (GLOO, "mmrlhf_ray.weights.gloo", "GlooWorkerEngine", "GlooTrainerEngine"),
    (IPC, "mmrlhf_ray.weights.ipc", "IPCWorkerEngine", "IPCTrainerEngine"),
    (NCCL, "mmrlhf_ray.weights.nccl", "NCCLWorkerEngine", "NCCLTrainerEngine"),
)
"""Name, module, and the classes of both ends: a worker of the sampler's, and a rank of the learner."""


@dataclass
class ObjectStoreInitInfo(WeightTransferInitInfo):
    """Nothing to agree on: every bucket describes itself."""


@dataclass
class ObjectStoreUpdateInfo(WeightTransferUpdateInfo):
    """One bucket."""

    layout: list[dict[str, Any]]
    """TensorLayouts, as dicts: classes do not survive the way into the engine's process."""
    name: str
    """As in SharedBucket."""
    nbytes: int


class ObjectStoreWeightTransferEngine(WeightTransferEngine[ObjectStoreInitInfo, ObjectStoreUpdateInfo]):
    """Takes buckets out of memory that it shares with the generator."""

    init_info_cls = ObjectStoreInitInfo
    update_info_cls = ObjectStoreUpdateInfo

    def __init__(
        self, config: WeightTransferConfig, vllm_config: VllmConfig, device: torch.device, model: torch.nn.Module
    ) -> None:
        super().__init__(config, vllm_config, device, model)
        self.loading = Loading(model, device)

    def init_transfer_engine(self, init_info: ObjectStoreInitInfo) -> None:
        """No connection is needed."""

    def start_weight_update(self) -> None:
        self._buffers = Buffers()
        self.loading.start()

    def update_weights(self, update_info: dict[str, Any]) -> None:
        # The base class synchronises an accelerator, which a CPU build does not have.
        end_if_abandoned(update_info)
        self.receive_weights(self.parse_update_info(update_info))
        if self.device.type != "cpu":
            torch.accelerator.synchronize()

    def receive_weights(self, update_info: ObjectStoreUpdateInfo) -> None:
        """Raises RunError as Loading.load()."""
        layout = [TensorLayout(**item) for item in update_info.layout]
        buffer = self._buffers.take(update_info.nbytes)  # what is shared changes when the next bucket comes
        buffer.numpy()[:] = SharedBucket(layout, update_info.name, update_info.nbytes).payload()
        self.loading.load(list(views(layout, buffer)))

    def finish_weight_update(self) -> None:
        self.loading.finish(self.model_config)
        del self._buffers

    def shutdown(self) -> None:
        """Nothing is held open."""


def register() -> None:
    """Make our engines known to vLLM, which calls this in each of its processes, as the plugin of pyproject.toml; those
    that it started itself end with the process that started them."""
    end_with_parent()
    if OBJECT_STORE not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(OBJECT_STORE, ObjectStoreWeightTransferEngine)
        for name, module, worker, trainer in _DIRECT:
            WeightTransferEngineFactory.register_engine(name, module, worker)
            WeightTransferTrainerFactory.register_engine(name, module, trainer)
