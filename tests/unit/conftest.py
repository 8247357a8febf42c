"""Model directories, written once per session, and a learner group of one rank."""

import os
import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from mmrlhf_ray.data.encoding.encode import Encoder, load_encoder
from mmrlhf_ray.demo.families import FAMILIES
from mmrlhf_ray.demo.model import build_model
from mmrlhf_ray.models import HeadedModel, load_policy
from tests.command import Here, in_process


@pytest.fixture(scope="session")
def omni(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's untrained omni model."""
    path = tmp_path_factory.mktemp("omni") / "model"
    build_model(path, seed=0)
    return path


@pytest.fixture(scope="session")
def vl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained Qwen2.5-VL."""
    path = tmp_path_factory.mktemp("vl") / "model"
    FAMILIES["qwen2_5_vl"](path, 0)
    return path


@pytest.fixture(scope="session")
def omni_encoder(omni: Path) -> Encoder:
    return load_encoder(omni)


@pytest.fixture(scope="session")
def vl_encoder(vl: Path) -> Encoder:
    return load_encoder(vl)


@pytest.fixture(scope="session", params=["omni", "vl"])
def encoder(request: pytest.FixtureRequest) -> Encoder:
    """Each family's."""
    return request.getfixturevalue(f"{request.param}_encoder")


@pytest.fixture(scope="session")
def policy(encoder: Encoder, request: pytest.FixtureRequest) -> HeadedModel:
    """The model that goes with `encoder`."""
    family = {"qwen2_5_omni": "omni", "qwen2_5_vl": "vl"}[encoder.adapter.family]
    return load_policy(encoder.adapter, request.getfixturevalue(family), torch.float32)


@pytest.fixture(scope="session", params=list(FAMILIES))
def family_dir(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model of each family that has an adapter."""
    path = tmp_path_factory.mktemp(request.param) / "model"
    FAMILIES[request.param](path, 0)
    return path


@pytest.fixture(scope="session")
def family_encoder(family_dir: Path) -> Encoder:
    return load_encoder(family_dir)


@pytest.fixture(scope="session")
def family_policy(family_dir: Path, family_encoder: Encoder) -> HeadedModel:
    """The model that goes with `family_encoder`."""
    return load_policy(family_encoder.adapter, family_dir, torch.float32)


@pytest.fixture(scope="session")
def process_group() -> Iterator[None]:
    """gloo with one rank; the environment is as before afterwards."""
    from mmrlhf_ray.training.engine import init_process_group  # DeepSpeed, which few tests need

    before = dict(os.environ)
    listener = socket.create_server(("127.0.0.1", 0))
    init_process_group(0, 1, "127.0.0.1", listener.getsockname()[1], torch.device("cpu"), listener)
    yield
    dist.destroy_process_group()
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def here(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Here:
    """`here("data", "check", "rows.jsonl")`: the command in this process."""
    return partial(in_process, capfd, cwd=tmp_path)
