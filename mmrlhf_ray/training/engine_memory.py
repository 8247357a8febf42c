"""What a rank keeps on its device, moved to host memory and back: others can use the device meanwhile."""

import deepspeed
import torch
from deepspeed.runtime.zero.offload_config import OffloadDeviceEnum, OffloadStateTypeEnum
from deepspeed.runtime.zero.offload_states import offload_optimizer_states, reload_optimizer_states
from deepspeed.runtime.zero.partition_parameters import is_zero_param
from deepspeed.runtime.zero.utils import get_mapping_to_flat_buffer
from torch import Tensor

from mmrlhf_ray.errors import RunError


def check_movable(engine: deepspeed.DeepSpeedEngine) -> None:
    """Raise RunError where DeepSpeed has no way to move what it keeps."""
    stage = engine.zero_optimization_stage()
    if not hasattr(engine.optimizer, "offload_states"):
        raise RunError(
            f"zero_stage {stage} in {engine.communication_data_type}: DeepSpeed cannot move such a learner's state off "
            "its device; set zero_stage 2 or 3"
        )
    offloaded = engine.zero_offload_param()
    if offloaded is not None and offloaded.device != OffloadDeviceEnum.none:
        raise RunError(
            "engine.deepspeed.zero_optimization.offload_param keeps the parameters in host memory all the time; remove "
            "it for a learner that takes turns on its device"
        )


def move_off(engine: deepspeed.DeepSpeedEngine) -> None:
    """Parameters, frozen ones too, their master copies, moments and gradient buffers go to host memory. Between
    optimizer steps, with ZeRO."""
    optimizer = engine.optimizer
    if engine.zero_optimization_stage() < 3:
        engine.offload_states()
    else:  # DeepSpeed's own moves no other optimizer than its fused one, and no frozen parameters
        engine.offload_states(include=[OffloadStateTypeEnum.lp_grads, OffloadStateTypeEnum.contiguous_grad_buffer])
        buffer = optimizer.lp_param_buffer
        buffer.data = _in_host_memory(buffer)
        for tensor, offset, numel in get_mapping_to_flat_buffer(optimizer._get_parameter_partitions()):
            tensor.data = buffer.narrow(0, offset, numel)
        optimizer.fp16_partitioned_groups_flat.clear()
        optimizer.offloaded_states.add(OffloadStateTypeEnum.lp_params)
        if not engine.zero_use_cpu_optimizer():
            for copy in optimizer.fp32_partitioned_groups_flat:
                copy.data = _in_host_memory(copy)
            optimizer.offloaded_states.add(OffloadStateTypeEnum.hp_params)
            offload_optimizer_states(optimizer.optimizer, "cpu", pin_memory=True)
    for tensor in _frozen(engine):
        tensor.data = _in_host_memory(tensor)
    deepspeed.accelerator.get_accelerator().empty_cache()


def move_back(engine: deepspeed.DeepSpeedEngine) -> None:
    """The inverse of move_off()."""
    engine.reload_states()
    if engine.zero_optimization_stage() == 3 and not engine.zero_use_cpu_optimizer():
        reload_optimizer_states(engine.optimizer.optimizer, engine.device)
    for tensor in _frozen(engine):
        tensor.data = tensor.to(engine.device)


def state_bytes(engine: deepspeed.DeepSpeedEngine) -> int:
    """Of what move_off() moves, gradient buffers apart."""
    optimizer = getattr(engine.optimizer, "optimizer", engine.optimizer)  # ZeRO's has the plain one
    own = [p.ds_tensor if is_zero_param(p) else p for p in engine.module.parameters()]
    masters = [p for group in optimizer.param_groups for p in group["params"]]
    moments = [value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
    distinct = {tensor.data_ptr(): tensor.numel() * tensor.element_size() for tensor in (*own, *masters, *moments)}
    return sum(distinct.values())


def _frozen(engine: deepspeed.DeepSpeedEngine) -> list[Tensor]:
    """This rank's part of parameters that are not trained."""
    frozen = [p for p in engine.module.parameters() if not p.requires_grad]
    return [p.ds_tensor if is_zero_param(p) else p for p in frozen]


def _in_host_memory(tensor: Tensor) -> Tensor:
    """A copy, from which a GPU reads fast."""
    host = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda, requires_grad=False)
    return host.copy_(tensor.detach())
