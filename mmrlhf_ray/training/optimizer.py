"""AdamW (Loshchilov and Hutter 2019) where its state lies, and the learning rate's schedule."""

import math
from collections.abc import Callable, Sequence

import torch

from mmrlhf_ray.config.learner import OptimizerConfig
from mmrlhf_ray.models import ParameterGroup
from mmrlhf_ray.training import extension


def adamw(
    groups: Sequence[ParameterGroup], optimizer: OptimizerConfig, device: torch.device, *, offload: bool
) -> torch.optim.Optimizer:
    """AdamW over `groups`, each with its learning rate. `offload`: its state and the master copies of the weights stay
    in host memory, and DeepSpeed's vectorised step is taken there; otherwise torch's, fused on a GPU.

    Raises DeadlineExceeded where another process compiles DeepSpeed's step for too long.
    """
    parameters = [{"params": list(group.parameters), "lr": group.lr} for group in groups]
    settings = {
        "lr": optimizer.lr,
        "betas": optimizer.betas,
        "eps": optimizer.eps,
        "weight_decay": optimizer.weight_decay,
    }
    if offload:
        extension.build(extension.CPU_ADAM)
        from deepspeed.ops.adam import DeepSpeedCPUAdam

        return DeepSpeedCPUAdam(parameters, **settings, adamw_mode=True)
    return torch.optim.AdamW(parameters, **settings, fused=device.type == "cuda")


def own_counters(optimizer: torch.optim.Optimizer) -> None:
    """Give each state a counter of steps of its own, as this kind of AdamW keeps it: DeepSpeed reads them as they were
    written, and for all states of a universal checkpoint one and the same, which each of them would then raise."""
    torchs, fused = isinstance(optimizer, torch.optim.AdamW), optimizer.defaults.get("fused")
    for state in filter(None, optimizer.state.values()):
        steps = float(state["step"])
        device = state["exp_avg"].device if fused else torch.device("cpu")
        state["step"] = torch.tensor(steps, device=device) if torchs else int(steps)


def lr_multiplier(optimizer: OptimizerConfig, total_steps: int) -> Callable[[int], float]:
    """Step → factor on the learning rate: linear warm-up, then the schedule."""

    def factor(step: int) -> float:
        if step < optimizer.warmup_steps:
            return (step + 1) / optimizer.warmup_steps
        if optimizer.schedule == "constant":
            return 1.0
        done = (step - optimizer.warmup_steps) / max(1, total_steps - optimizer.warmup_steps)
        done = min(1.0, done)
        return 1.0 - done if optimizer.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))

    return factor
