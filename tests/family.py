"""The processes of a generator."""

import psutil


def engine_of(generator: psutil.Process) -> psutil.Process:
    """That of vLLM's engine: `generator` starts a sampler, and that forks the engine, which sets its title. That fails
    where the first variable of the environment was set anew; then it has the sampler's."""
    (sampler,) = (child for child in generator.children() if "sampler_process" in _title(child))
    (engine,) = (
        child for child in sampler.children() if "EngineCore" in _title(child) or _title(child) == _title(sampler)
    )
    return engine


def _title(process: psutil.Process) -> str:
    return "" if process.status() == psutil.STATUS_ZOMBIE else " ".join(process.cmdline())
