"""Distributed RLHF for multimodal models on Ray."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmrlhf_ray.api import JobResult, evaluate, load_config, ppo, preference, reward_model, sft

__version__ = "0.1.0"
__all__ = ["JobResult", "evaluate", "load_config", "ppo", "preference", "reward_model", "sft"]


def __getattr__(name: str) -> Any:
    """The Python API, imported at its first use: what only asks for the version need not wait for it."""
    if name in __all__:
        return getattr(import_module("mmrlhf_ray.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
