"""A learner group of one rank."""

import os
import socket
from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist

from mmrlhf_ray.training.engine import init_process_group


@pytest.fixture(scope="package")
def process_group() -> Iterator[None]:
    """gloo with one rank; the environment is as before afterwards."""
    before = dict(os.environ)
    listener = socket.create_server(("127.0.0.1", 0))
    init_process_group(0, 1, "127.0.0.1", listener.getsockname()[1], torch.device("cpu"), listener)
    yield
    dist.destroy_process_group()
    os.environ.clear()
    os.environ.update(before)
