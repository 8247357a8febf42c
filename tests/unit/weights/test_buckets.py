"""Tensors come out of a buffer bit for bit as they went in."""

import numpy as np
import pytest
import torch
from torch import Tensor

from mmrlhf_ray.weights.buckets import pack, unpack
from mmrlhf_ray.weights.layout import checksums, combine


def tensors() -> list[tuple[str, Tensor]]:
    noise = torch.Generator().manual_seed(0)
    return [
        ("odd", torch.randn(3, generator=noise).to(torch.bfloat16)),  # 6 bytes: what follows is not aligned
        ("plain", torch.randn(2, 5, generator=noise)),
        ("half", torch.randn(1, 1, 3, generator=noise).to(torch.float16)),
        ("transposed", torch.randn(4, 3, generator=noise).T),
        ("special", torch.tensor([float("inf"), -0.0, float("nan")])),
        ("scalar", torch.tensor(2.5)),
    ]


def same_bits(a: Tensor, b: Tensor) -> bool:
    flat = [t.contiguous().reshape(-1).view(torch.uint8) for t in (a, b)]
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(*flat)


def test_round_trip_is_exact() -> None:
    layout, payload = pack(tensors())
    assert payload.dtype == np.uint8
    assert payload.nbytes == sum(t.numel() * t.element_size() for _, t in tensors())
    back = list(unpack(layout, payload))
    assert [name for name, _ in back] == [name for name, _ in tensors()]
    assert all(same_bits(got, want) for (_, got), (_, want) in zip(back, tensors(), strict=True))


def test_tensors_lie_back_to_back() -> None:
    layout, payload = pack(tensors())
    ends = [item.offset + item.nbytes for item in layout]
    assert [item.offset for item in layout] == [0, *ends[:-1]]
    assert ends[-1] == payload.nbytes


def test_what_is_unpacked_outlives_a_read_only_buffer() -> None:
    layout, payload = pack(tensors())
    shared = payload.copy()
    shared.flags.writeable = False
    back = dict(unpack(layout, shared))
    back["plain"].zero_()
    assert np.array_equal(shared, payload)


def test_checksums_are_of_each_tensors_bytes() -> None:
    layout, payload = pack(tensors())
    before = checksums(layout, payload)
    assert set(before) == {name for name, _ in tensors()}
    harmed = payload.copy()
    place = next(item for item in layout if item.name == "plain")
    harmed[place.offset + 3] ^= 1
    after = checksums(layout, harmed)
    assert {name for name in before if before[name] != after[name]} == {"plain"}


def test_checksums_do_not_depend_on_the_buckets() -> None:
    made = tensors()
    together = checksums(*pack(made))
    apart = checksums(*pack(made[:3])) | checksums(*pack(made[3:]))
    assert together == apart
    assert combine(together) == combine(dict(reversed(apart.items())))


@pytest.mark.parametrize("change", ["value", "name", "less"])
def test_the_whole_models_digest_sees_every_change(change: str) -> None:
    sums = {"a": "1", "b": "2"}
    other = {"value": {"a": "1", "b": "3"}, "name": {"a": "1", "c": "2"}, "less": {"a": "1"}}[change]
    assert combine(sums) != combine(other)
