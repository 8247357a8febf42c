"""Weights on the way: tensors packed back to back in one buffer."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from mmrlhf_ray.weights.layout import TensorLayout

_DTYPES = {str(d).removeprefix("torch."): d for d in (torch.float32, torch.bfloat16, torch.float16)}


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
