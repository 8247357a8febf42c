"""Tensors come out of a buffer bit for bit as they went in."""

import numpy as np
import pytest
import torch
from torch import Tensor

from mmrlhf_ray.weights.buckets import Buffers, checksum, lay_out, pack, unpack, views
from mmrlhf_ray.weights.layout import combine


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
    for back in (list(unpack(layout, payload)), list(views(layout, torch.from_numpy(payload)))):
        assert [name for name, _ in back] == [name for name, _ in tensors()]
        assert all(same_bits(got, want) for (_, got), (_, want) in zip(back, tensors(), strict=True))


def test_tensors_lie_apart_at_places_that_suit_every_dtype() -> None:
    layout, payload = pack(tensors())
    ends = [0, *(item.offset + item.nbytes for item in layout)]
    assert all(item.offset % 64 == 0 and 0 <= item.offset - end < 64 for item, end in zip(layout, ends))
    assert ends[-1] == payload.nbytes


def test_both_ends_cut_alike_whatever_the_values() -> None:
    outlines = [(name, torch.empty_like(tensor, device="meta")) for name, tensor in tensors()]
    cut = list(lay_out(tensors(), 140))
    assert cut == list(lay_out(outlines, 140))
    assert [[item.name for item in bucket] for bucket in cut] == [
        ["odd", "plain", "half"],
        ["transposed", "special", "scalar"],
    ]
    assert [len(bucket) for bucket in lay_out(tensors(), 1)] == [1] * len(tensors())  # a larger one has its own


def test_what_is_unpacked_outlives_a_read_only_buffer() -> None:
    layout, payload = pack(tensors())
    shared = payload.copy()
    shared.flags.writeable = False
    back = dict(unpack(layout, shared))
    back["plain"].zero_()
    assert np.array_equal(shared, payload)


def test_memory_is_used_again_only_when_no_tensor_looks_at_it() -> None:
    buffers = Buffers()
    first = buffers.take(1000)
    (part,) = [first[8:16].view(torch.int64).view(1)]
    place = first.data_ptr()
    del first
    second = buffers.take(1000)
    assert second.data_ptr() != place
    del part
    assert buffers.take(900).data_ptr() == place


@pytest.mark.parametrize("count", [0, 1, 7, 8, 4096, 3 * 4096 + 8 * 5 + 3])
def test_a_checksum_sees_every_byte_and_its_place(count: int) -> None:
    data = torch.randint(0, 256, (count,), dtype=torch.uint8, generator=torch.Generator().manual_seed(count))
    whole = checksum(data)
    assert whole == checksum(data.clone())
    assert 0 <= whole < 2**64
    for at in {0, count // 2, count - 1} if count else ():
        for bit in (1, 128):
            harmed = data.clone()
            harmed[at] ^= bit
            assert checksum(harmed) != whole
    if count > 16:
        for distance in (8, 4096 if count > 4096 else 8):  # words of one row, of one column
            swapped = data.clone()
            swapped[:8], swapped[distance : distance + 8] = data[distance : distance + 8], data[:8]
            assert checksum(swapped) != whole


def test_a_checksum_is_of_the_bytes_alone() -> None:
    tensor = torch.randn(70, 33)
    assert checksum(tensor) == checksum(tensor.contiguous().view(torch.uint8))
    assert checksum(tensor) != checksum(tensor.T)
    assert checksum(tensor.T) == checksum(tensor.T.contiguous())


@pytest.mark.parametrize("change", ["value", "name", "less"])
def test_the_whole_models_digest_sees_every_change(change: str) -> None:
    sums = {"a": 1, "b": 2}
    other = {"value": {"a": 1, "b": 3}, "name": {"a": 1, "c": 2}, "less": {"a": 1}}[change]
    assert combine(sums) != combine(other)
    assert combine(sums) == combine(dict(reversed(sums.items())))
