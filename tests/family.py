"""The processes of a generator."""

import re

import psutil

from mmrlhf_ray.runtime import forked_python


def engine_of(generator: psutil.Process) -> psutil.Process:
    """That of vLLM's engine: `generator` has a sampler, and that forks the engine, which sets its title. That fails
    where the first variable of the environment was set anew; then it has the sampler's."""
    served = re.compile(rf"sampler_process import serve; serve\(\d+, {generator.pid}\)")
    mine = [
        process
        for process in psutil.process_iter()
        if served.search(title := _title(process)) and forked_python.__file__ not in title
    ]
    (sampler,) = (process for process in mine if process.ppid() not in {other.pid for other in mine})
    (engine,) = (
        child for child in sampler.children() if "EngineCore" in _title(child) or _title(child) == _title(sampler)
    )
    return engine


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except (psutil.ZombieProcess, psutil.NoSuchProcess):
        return ""
