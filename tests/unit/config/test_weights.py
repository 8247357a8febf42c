"""Which way the weights go, and which ways cannot be had."""

from typing import Any

import pytest
from pydantic import ValidationError

from mmrlhf_ray.config import PPOConfig

ON_GPUS = {"policy": {"num_gpus": 1}, "generator": {"num_gpus": 2}}
SHARED = {
    "policy": {"num_gpus": 1},
    "generator": {"num_gpus": 1, "replicas": 2},
    "colocate": [["generator", "policy"]],
}
ONE_GPU = SHARED | {"policy": {"num_gpus": 1, "replicas": 1}, "generator": {"num_gpus": 1}}
LORA = {"lora": {"rank": 4}}


def online(transport: str, placement: dict[str, Any], **changes: Any) -> PPOConfig:
    reward = {"name": "r", "kind": "function", "function": "length"}
    base = {"name": "n", "policy": {"path": "m"}, "data": {"path": "d.jsonl"}, "steps": 20, "rewards": [reward]}
    return PPOConfig.model_validate({**base, "weights": {"transport": transport}, "placement": placement, **changes})


@pytest.mark.parametrize(
    ("transport", "placement", "changes", "chosen"),
    [
        ("auto", {}, {}, "object_store"),
        ("auto", ON_GPUS, {}, "nccl"),
        ("auto", ON_GPUS, {"device": "cpu"}, "object_store"),
        ("auto", ON_GPUS | {"generator": {"num_gpus": 0.5}}, {}, "object_store"),  # NCCL takes no half a GPU
        ("auto", ON_GPUS, {"learner": LORA}, "object_store"),
        ("auto", SHARED, {}, "object_store"),
        ("nccl", ON_GPUS, {}, "nccl"),
        ("gloo", {}, {}, "gloo"),
        ("gloo", ON_GPUS, {}, "gloo"),
        ("ipc", {}, {}, "ipc"),
        ("ipc", ONE_GPU, {}, "ipc"),
        ("ipc", ON_GPUS, {"device": "cpu"}, "ipc"),
        ("object_store", ON_GPUS, {}, "object_store"),
    ],
)
def test_chosen(transport: str, placement: dict[str, Any], changes: dict[str, Any], chosen: str) -> None:
    assert online(transport, placement, **changes).transport == chosen


@pytest.mark.parametrize(
    ("transport", "placement", "changes", "message"),
    [
        ("nccl", {}, {}, r"weights\.transport=nccl: it needs a GPU for each end, and placement\.policy\.num_gpus is 0"),
        ("nccl", ON_GPUS | {"generator": {"num_gpus": 0.5}}, {}, r"placement\.generator\.num_gpus is 0\.5; set it to"),
        ("nccl", ON_GPUS, {"device": "cpu"}, r"it needs GPUs, and device is cpu; set it to auto"),
        ("gloo", {}, {"learner": LORA}, r"weights\.transport=gloo: with learner\.lora only the adapter is pushed"),
        ("ipc", ON_GPUS, {}, r"weights\.transport=ipc: on GPUs it needs one that policy and generator share"),
        ("ipc", SHARED, {}, r"its one sender is on one GPU, and placement\.policy\.replicas is 2; set it to"),
        ("shm", {}, {}, "object_store"),
    ],
)
def test_refused(transport: str, placement: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        online(transport, placement, **changes)
