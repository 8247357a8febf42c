"""How an online run pushes the policy's weights to its generators."""

from typing import Literal

from mmrlhf_ray.config.placement import Placement
from mmrlhf_ray.config.section import Section

WeightTransport = Literal["object_store", "gloo", "ipc", "nccl"]


class WeightsConfig(Section):
    """Pushes of the policy's weights. Every one is proven by names and checksums."""

    transport: WeightTransport | Literal["auto"] = "auto"
    """`object_store`: buckets in host memory, which each generator fetches through Ray. The others go from the
    learner's first rank straight into the workers of all engines: `gloo` through host memory, `nccl` from GPU to GPU,
    `ipc` through memory that both see, of one host or of the one GPU that they share. `auto` = nccl where learner and
    generators have GPUs of their own, else object_store. An adapter (`learner.lora`) has no use for any: it goes
    through the object store."""

    def chosen(self, placement: Placement, device: str, adapter: bool) -> WeightTransport:
        """The transport of a run. Raises ValueError for one that it cannot have."""
        why = _no_nccl(placement, device)
        if adapter:
            if self.transport not in ("auto", "object_store"):
                raise ValueError(
                    f"weights.transport={self.transport}: with learner.lora only the adapter is pushed, through the "
                    "object store; leave one of them out"
                )
            return "object_store"
        if self.transport == "nccl" and why:
            raise ValueError(f"weights.transport=nccl: {why}; set it to auto")
        if self.transport == "ipc" and (apart := _no_ipc(placement, device)):
            raise ValueError(f"weights.transport=ipc: {apart}; set it to auto")
        if self.transport == "auto":
            return "object_store" if why else "nccl"
        return self.transport


def _no_nccl(placement: Placement, device: str) -> str:
    """Why NCCL cannot be had; "" where it can."""
    if device == "cpu":
        return "it needs GPUs, and device is cpu"
    if "generator" in placement.sharing("policy"):
        return "it needs a GPU for each end, and placement.colocate has policy and generators share theirs"
    for role, num_gpus in (("policy", placement.policy.num_gpus), ("generator", placement.generator.num_gpus)):
        if num_gpus < 1:
            return f"it needs a GPU for each end, and placement.{role}.num_gpus is {num_gpus:g}"
    return ""


def _no_ipc(placement: Placement, device: str) -> str:
    """Why the memory of a GPU cannot be shared; "" where it can, and where nothing is on GPUs. Whether all are on one
    host is known when they run."""
    on_gpus = device != "cpu" and (placement.policy.num_gpus or placement.generator.num_gpus)
    if not on_gpus:
        return ""
    if "generator" not in placement.sharing("policy"):
        return "on GPUs it needs one that policy and generator share, and placement.colocate does not have them"
    if placement.policy.replicas > 1:
        return f"its one sender is on one GPU, and placement.policy.replicas is {placement.policy.replicas}"
    return ""
