"""Imported once, by the process that those of tests are forked from (tests/unit/forked.py)."""

import functools
import gc
from importlib import import_module

import cpuinfo

for name in (
    "deepspeed.runtime.zero.muon.muon_optimizer",  # DeepSpeed looks at its class as an engine is made
    "vllm.model_executor.model_loader.reload.layerwise",
    "mmrlhf_ray.models",
    "mmrlhf_ray.training.supervised",
    "mmrlhf_ray.weights.gloo",
    "mmrlhf_ray.weights.ipc",
):
    import_module(name)
# DeepSpeed asks three times for each of its Adams, and each time a process looks.
cpuinfo.get_cpu_info = functools.cache(cpuinfo.get_cpu_info)
cpuinfo.get_cpu_info()
# What is there now is never garbage, and DeepSpeed looks for some at every turn.
gc.collect()
gc.freeze()
