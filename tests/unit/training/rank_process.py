"""A group of ranks, each a process: for what one rank cannot show and Ray would only slow down."""

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing

from tests.unit.forked import SERVER

_PATIENCE = timedelta(seconds=120)


def run_ranks(ranks: int, work: Callable[[int, Path], None], directory: Path, *, fresh: bool = False) -> None:
    """`work(rank, directory)` on all ranks of a group over gloo. Raises what it raised, as a trace. `fresh`: in
    processes that import all themselves, for who looks at their memory."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "store").unlink(missing_ok=True)
    torch.multiprocessing.start_processes(
        _rank,
        args=(ranks, work, directory),
        nprocs=ranks,
        start_method="spawn" if fresh else SERVER.get_start_method(),
    )


def _rank(rank: int, ranks: int, work: Callable[[int, Path], None], directory: Path) -> None:
    from mmrlhf_ray.training.engine import adopt_process_group  # DeepSpeed, which few tests need

    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(ranks), LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    store = dist.FileStore(str(directory / "store"), ranks)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks, timeout=_PATIENCE)
    adopt_process_group(torch.device("cpu"))
    work(rank, directory)
    dist.barrier()
    dist.destroy_process_group()
