"""Weights on the way: tensors packed back to back in one buffer, with checksums."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_DTYPES = {str(d).removeprefix("torch."): d for d in (torch.float32, torch.bfloat16, torch.float16)}


@dataclass(frozen=True)
class TensorLayout:
    """Where one tensor lies in a buffer."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


def pack(tensors: Sequence[tuple[str, Tensor]]) -> tuple[list[TensorLayout], np.ndarray]:
    """Host tensors as one uint8 array and the layout of what is in it."""
    flat = [(name, t.contiguous().reshape(-1).view(torch.uint8).numpy()) for name, t in tensors]
    layout, offset = [], 0
    for (name, tensor), (_, part) in zip(tensors, flat, strict=True):
        dtype = str(tensor.dtype).removeprefix("torch.")
        layout.append(TensorLayout(name, dtype, tuple(tensor.shape), offset, part.nbytes))
        offset += part.nbytes
    return layout, np.concatenate([part for _, part in flat])


def unpack(layout: Sequence[TensorLayout], payload: np.ndarray) -> Iterator[tuple[str, Tensor]]:
    """The inverse of pack(). Tensors are copies: Ray's buffers are read-only and go away."""
    for item in layout:
        part = payload[item.offset : item.offset + item.nbytes].copy()
        yield item.name, torch.from_numpy(part).view(_DTYPES[item.dtype]).reshape(item.shape)


def checksums(layout: Sequence[TensorLayout], payload: np.ndarray) -> dict[str, str]:
    """name → digest of the tensor's bytes."""
    return {
        item.name: hashlib.blake2b(payload[item.offset : item.offset + item.nbytes].data, digest_size=8).hexdigest()
        for item in layout
    }


def combine(sums: dict[str, str]) -> str:
    """One digest for an entire model: of names and digests in name order."""
    return hashlib.blake2b("".join(f"{n}={sums[n]};" for n in sorted(sums)).encode(), digest_size=16).hexdigest()
