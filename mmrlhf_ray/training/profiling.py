"""PyTorch's profiler around what a rank does in a step."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from mmrlhf_ray.disk import writing

PROFILE_DIR = "profile"
"""In the run's directory."""


def step_dir(run_dir: Path, step: int) -> Path:
    """Where the traces of a step are."""
    return run_dir / PROFILE_DIR / f"step-{step:06d}"


@contextmanager
def profiled(trace: Path | None) -> Iterator[None]:
    """Watch the block and write what ran when to `trace`, in Chrome's trace format, compressed where the name ends in
    `.gz`. None = nothing is watched. Raises RunFailed on a full disk."""
    if trace is None:
        yield
        return
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
    with profile(activities=activities) as found:
        yield
    with writing(trace):
        trace.parent.mkdir(parents=True, exist_ok=True)
        found.export_chrome_trace(str(trace))
