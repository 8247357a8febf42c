"""Bytes that another process of this machine maps by name: how a bucket gets from a generator into its engine, and from
a learner into the engines of its host."""

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
        return look_into(self.name, self.nbytes)


class SharedBuffer:
    """Memory of this process that others of the same user can map. It goes away with this process, however it ends."""

    def __init__(self) -> None:
        self._file = os.memfd_create("mmrlhf-bucket")
        self._memory: mmap.mmap | None = None
        self.name = f"/proc/{os.getpid()}/fd/{self._file}"

    @property
    def nbytes(self) -> int:
        """How large it has become."""
        return 0 if self._memory is None else len(self._memory)

    def view(self, nbytes: int) -> np.ndarray:
        """Its first bytes, uint8 [nbytes], to be written; it grows where it must."""
        if self._memory is None or nbytes > len(self._memory):
            os.ftruncate(self._file, nbytes)
            self._memory = mmap.mmap(self._file, nbytes)
        return np.frombuffer(self._memory, np.uint8, nbytes)

    def put(self, layout: list[TensorLayout], payload: np.ndarray) -> SharedBucket:
        """Replace what is there by these bytes."""
        self.view(payload.nbytes)[:] = payload
        return SharedBucket(layout, self.name, payload.nbytes)


def look_into(name: str, nbytes: int) -> np.ndarray:
    """The first bytes of another process's SharedBuffer, uint8 [nbytes], to be read. Raises OSError."""
    return np.memmap(name, np.uint8, mode="c", shape=(nbytes,))
