"""How long a push of weights takes, by transport, size and network. Estimates."""

from math import ceil, log2

from mmrlhf_ray.config import PPOConfig
from mmrlhf_ray.planning.devices import Nodes
from mmrlhf_ray.planning.packing import pack
from mmrlhf_ray.planning.placement import reservations
from mmrlhf_ray.planning.sizes import GIB

# Seconds for each GiB that both ends work on in host memory: to gather, pack, sum, load and sum again. As measured on
# two CPU cores (docs/performance.md): 0.76 and 0.51 s for 240 MiB.
HOST_S_PER_GIB = {"object_store": 3.24, "gloo": 2.18}
# More through the object store for each further GPU of a generator, whose workers copy from each other. An assumption.
_STORE_S_PER_SHARD = 0.5
# Within a GPU: into the window, out of it, and into vLLM's weights, each byte read and written. Counted, not measured.
_PASSES_WITHIN_A_GPU = 6


def push_seconds(cfg: PPOConfig, nbytes: float, node: Nodes, reached: float) -> tuple[float, str]:
    """Of a push of so many bytes, and what binds it. `reached`: share of a network's rate that is reached.

    Nothing travels where a GPU is shared (ipc). NCCL passes a bucket on from GPU to GPU, so that the slowest link is
    what counts; weights that ZeRO-3 divided come to the first rank over the same link before. In host memory both ends
    work while the next bucket is on the way; it goes to each node with a generator through the object store, and over
    gloo down a tree of all their workers.
    """
    nodes = pack(reservations(cfg), cfg.placement.strategy, node)
    source = next(n for n, load in enumerate(nodes) if "policy" in load.replicas)
    others = sum("generator" in load.replicas for n, load in enumerate(nodes) if n != source)
    transport, shards = cfg.transport, cfg.generator.tensor_parallel_size
    if transport == "ipc":
        return _PASSES_WITHIN_A_GPU * nbytes / node.device.memory_rate, "memory"
    network = node.device.network_rate * reached
    if transport == "nccl":
        wire = network if others else node.device.link_rate * reached
        gathered = 0.0
        if cfg.learner.engine.zero_stage == 3 and cfg.placement.policy.replicas > 1:
            ranks = [load.replicas["policy"] for load in nodes if "policy" in load.replicas]
            gathered = nbytes / (network if len(ranks) > 1 else node.device.link_rate * reached)
        return nbytes / wire + gathered, "network"
    each = HOST_S_PER_GIB[transport] + (_STORE_S_PER_SHARD * (shards - 1) if transport == "object_store" else 0.0)
    working = each * nbytes / GIB
    hops = others
    if transport == "gloo" and others:
        hops = ceil(log2(1 + cfg.placement.generator.actors * shards))
    travelling = hops * nbytes / network
    return max(working, travelling), "host" if working >= travelling else "network"
