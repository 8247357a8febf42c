"""A run's directory: made, claimed, and described."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmrlhf_ray.config import RunConfig, save_config
from mmrlhf_ray.errors import RunError

CONFIG_FILE = "config.yaml"


@contextmanager
def run_directory(cfg: RunConfig, resume: bool = False) -> Iterator[Path]:
    """`<output_dir>/<name>` with the resolved configuration. One process at a time may write to it. With `resume` the
    configuration in it stays until begin() has compared the two.

    Raises RunError where another one does.
    """
    path = Path(cfg.output_dir) / cfg.name
    path.mkdir(parents=True, exist_ok=True)
    with (path / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(
                f"{path}: another process is writing to this run; wait for it or choose another name"
            ) from None
        if not resume:
            save_config(cfg, path / CONFIG_FILE)
        yield path
