"""GPUs that plans know, and what is assumed of them."""

import re
from dataclasses import dataclass

from mmrlhf_ray.errors import ConfigError


@dataclass(frozen=True)
class Device:
    """A GPU and its place in a node of the maker's own design. Peaks are the maker's, without sparsity."""

    name: str
    memory_gb: float
    """GiB, as the driver reports it."""
    flops: float
    """In bfloat16, a second."""
    memory_rate: float
    """Bytes a second from its own memory."""
    link_rate: float
    """Bytes a second to the other GPUs of the node, one way."""
    network_rate: float
    """Bytes a second to other nodes: a network card for each GPU."""
    host_rate: float
    """Bytes a second to host memory, one way."""


# NVIDIA's data sheets "H100 Tensor Core GPU", "H200 Tensor Core GPU", "A100 80GB" (SXM): half of the figures with
# sparsity, half of NVLink's two-way rate; network cards as in DGX H100, H200 (400 Gb/s each) and A100 (200 Gb/s each).
DEVICES = {
    device.name: device
    for device in (
        Device("H100", 79.6, 989e12, 3.35e12, 450e9, 50e9, 64e9),
        Device("H200", 140.4, 989e12, 4.8e12, 450e9, 50e9, 64e9),
        Device("A100", 80.0, 312e12, 2.039e12, 300e9, 25e9, 32e9),
    )
}
H100 = DEVICES["H100"]


_SAME_GB = 5
"""What a maker calls 141 GB a driver may report as 140."""


def device_named(name: str) -> Device:
    """Raises ConfigError for one that is not in DEVICES. `H100-80GB` and `NVIDIA H100 80GB HBM3` are an H100."""
    for known in DEVICES.values():
        if known.name.lower() in name.lower():
            said = re.search(r"(\d+)\s*GB", name, re.IGNORECASE)
            if said and abs(int(said[1]) - known.memory_gb) > _SAME_GB:
                raise ConfigError(
                    f"expected {known.name} of {known.memory_gb:.0f} GB, got {name!r}; leave the size out"
                )
            return known
    raise ConfigError(f"expected a GPU that the planner knows, one of {', '.join(DEVICES)}, got {name!r}")


@dataclass(frozen=True)
class Nodes:
    """A node of a cluster; all are alike."""

    gpus: int = 8
    cpus: float = 96.0
    device: Device = H100
    host_gb: float = 960.0
    """Memory of a node, GiB, as cluster/kuberay reserves it."""


_CPUS_PER_GPU, _HOST_GB_PER_GPU = Nodes.cpus / Nodes.gpus, Nodes.host_gb / Nodes.gpus


def nodes_named(text: str) -> tuple[int, Nodes]:
    """How many nodes, and of which kind: `16x8xH100` is 16 nodes with 8 GPUs each. Their processors and host memory
    grow with their GPUs, as those of H100_NODES. Raises ConfigError."""
    found = re.fullmatch(r"(\d+)[x×*](\d+)[x×*](\S.*)", text.strip())
    if found is None:
        raise ConfigError(f"expected NODESxGPUSxDEVICE, such as 4x8xH100 for 4 nodes of 8 GPUs, got {text!r}")
    nodes, gpus = int(found[1]), int(found[2])
    for said, count in (("nodes", nodes), ("GPUs of a node", gpus)):
        if count < 1:
            raise ConfigError(f"{text}: expected 1 or more {said}, got {count}")
    device = device_named(found[3])
    return nodes, Nodes(gpus, gpus * _CPUS_PER_GPU, device, gpus * _HOST_GB_PER_GPU)


H100_NODES = Nodes()
