"""Weights on the way: tensors packed into one buffer, and the sums that prove their bytes."""

import weakref
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from mmrlhf_ray.weights.layout import TensorLayout

_ALIGNED = 64
"""Tensors begin at multiples of this many bytes, so that a buffer can be looked at as what is in it."""
_WORDS = 512
"""In a row of checksum()."""


def lay_out(tensors: Iterable[tuple[str, Tensor]], max_bytes: int) -> Iterator[list[TensorLayout]]:
    """Where tensors (values are not looked at) lie in buckets of at most `max_bytes`; a larger one has its own."""
    bucket: list[TensorLayout] = []
    for name, tensor in tensors:
        item = _placed(name, tensor, _end(bucket))
        if bucket and item.offset + item.nbytes > max_bytes:
            yield bucket
            bucket, item = [], _placed(name, tensor, 0)
        bucket.append(item)
    if bucket:
        yield bucket


def _placed(name: str, tensor: Tensor, offset: int) -> TensorLayout:
    dtype = str(tensor.dtype).removeprefix("torch.")
    return TensorLayout(name, dtype, tuple(tensor.shape), offset, tensor.numel() * tensor.element_size())


def _end(bucket: Sequence[TensorLayout]) -> int:
    return 0 if not bucket else -(-(bucket[-1].offset + bucket[-1].nbytes) // _ALIGNED) * _ALIGNED


def size(layout: Sequence[TensorLayout]) -> int:
    """Bytes of a bucket."""
    return layout[-1].offset + layout[-1].nbytes


def place(item: TensorLayout, tensor: Tensor, buffer: Tensor) -> None:
    """Copy a tensor to its place in a buffer, uint8."""
    part = buffer[item.offset : item.offset + item.nbytes]
    part.view(tensor.dtype).view(tensor.shape).copy_(tensor)


def pack(tensors: Sequence[tuple[str, Tensor]]) -> tuple[list[TensorLayout], np.ndarray]:
    """Host tensors, one at least, as one uint8 array and the layout of what is in it."""
    (layout,) = lay_out(tensors, sum(tensor.nbytes + _ALIGNED for _, tensor in tensors))
    buffer = torch.empty(size(layout), dtype=torch.uint8)
    for item, (_, tensor) in zip(layout, tensors, strict=True):
        place(item, tensor, buffer)
    return layout, buffer.numpy()


def views(layout: Sequence[TensorLayout], buffer: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The tensors that lie in a buffer, uint8; no bytes are copied."""
    for item in layout:
        part = buffer[item.offset : item.offset + item.nbytes]
        yield item.name, part.view(getattr(torch, item.dtype)).view(item.shape)


def unpack(layout: Sequence[TensorLayout], payload: np.ndarray) -> Iterator[tuple[str, Tensor]]:
    """The inverse of pack(). Tensors are copies: the buffers of others are read-only and go away."""
    for item in layout:
        part = payload[item.offset : item.offset + item.nbytes].copy()
        yield item.name, torch.from_numpy(part).view(getattr(torch, item.dtype)).reshape(item.shape)


def checksum(tensor: Tensor) -> int:
    """64 bits that change with any one of the tensor's bytes, and with their order; computed on its device.

    Its 64-bit words are summed over the rows and over the columns of a grid, each sum times an odd number of its own;
    all modulo 2**64. It is against accidents, not against forgers.
    """
    data = tensor.detach().contiguous().view(-1).view(torch.uint8)
    whole = data.numel() // 8 * 8
    words, rest = data[:whole].view(torch.int64), bytes(data[whole:].tolist())
    rows = len(words) // _WORDS
    grid, last = words[: rows * _WORDS].view(rows, _WORDS), words[rows * _WORDS :]
    total = _weighted(grid.sum(1)) + 2 * _weighted(grid.sum(0)) + 3 * _weighted(last)
    return (total + 5 * int.from_bytes(rest, "little")) % 2**64


def _weighted(words: Tensor) -> int:
    odd = torch.arange(1, 2 * len(words) + 1, 2, device=words.device)
    return int((words * odd).sum())


class Buffers:
    """Host memory that is used again as soon as nothing looks at it any more. Pages that the system gives out for the
    first time cost several times what a copy into old ones does."""

    def __init__(self) -> None:
        self._kept: list[tuple[np.ndarray, weakref.ref[np.ndarray]]] = []
        """Memory, and what is alive as long as a tensor looks at it."""

    def take(self, nbytes: int) -> Tensor:
        """uint8 [nbytes], with any values."""
        memory = next((m for m, user in self._kept if user() is None and m.nbytes >= nbytes), None)
        # Free memory that is too small is given up.
        self._kept = [
            (m, user) for m, user in self._kept if m is not memory and (m.nbytes >= nbytes or user() is not None)
        ]
        memory = np.empty(nbytes, np.uint8) if memory is None else memory
        user = memory[:nbytes]
        self._kept.append((memory, weakref.ref(user)))
        return torch.from_numpy(user)
