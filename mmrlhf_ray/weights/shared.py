"""Bytes that another process of this machine maps by name: how a bucket gets from a generator into its engine."""

import mmap
import os
from dataclasses import dataclass

import numpy as np

from mmrlhf_ray.weights.layout import TensorLayout


@dataclass(frozen=True)
class SharedBucket:
    """Tensors in a SharedBuffer."""

    layout: list[TensorLayout]
    name: str
    """Of the memory that they lie in, back to back; see SharedBuffer.put()."""
    nbytes: int

    def payload(self) -> np.ndarray:
        """The bytes, uint8 [nbytes], to be read: they change when the next bucket comes."""
        return np.memmap(self.name, np.uint8, mode="c", shape=(self.nbytes,))


class SharedBuffer:
    """Memory of this process that others of the same user can map. It goes away with this process, however it ends."""

    def __init__(self) -> None:
        self._file = os.memfd_create("mmrlhf-bucket")
        self._size = 0

    def put(self, layout: list[TensorLayout], payload: np.ndarray) -> SharedBucket:
        """Replace what is there by these bytes."""
        if payload.nbytes > self._size:
            os.ftruncate(self._file, payload.nbytes)
            self._size = payload.nbytes
        with mmap.mmap(self._file, self._size) as memory:
            target = np.frombuffer(memory, np.uint8)
            target[: payload.nbytes] = payload
            del target  # a map cannot be closed while an array looks at it
        return SharedBucket(layout, f"/proc/{os.getpid()}/fd/{self._file}", payload.nbytes)
