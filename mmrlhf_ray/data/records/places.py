"""Where data lie, for processes that may run in another directory than the one that was given the configuration."""

import os

from mmrlhf_ray.config.data import HUB, DataConfig, TextHooks


def with_absolute_paths(config: DataConfig) -> DataConfig:
    """The same data; every relative path as an absolute one. Addresses and names of data sets stay."""
    text = TextHooks(clean=tuple(map(_hook, config.text.clean)), redact=tuple(map(_hook, config.text.redact)))
    return config.model_copy(
        update={
            "path": _path(config.path),
            "sources": tuple(s.model_copy(update={"path": _path(s.path)}) for s in config.sources),
            "media_root": _path(config.media_root),
            "spill_dir": _path(config.spill_dir),
            "text": text,
        }
    )


def _path(path: str | None) -> str | None:
    return path if path is None or "://" in path or path.startswith(HUB) else os.path.abspath(path)


def _hook(hook: str) -> str:
    file, _, function = hook.rpartition(":")
    return hook if file == "builtin" else f"{os.path.abspath(file)}:{function}"
