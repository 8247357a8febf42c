"""Bytes that another process of this machine maps by name: how a bucket gets from a generator into its engine."""

import mmap
import os

import numpy as np


class SharedBuffer:
    """Memory of this process that others of the same user can map. It goes away with this process, however it ends."""

    def __init__(self) -> None:
        self._file = os.memfd_create("mmrlhf-bucket")
        self._size = 0

    def put(self, payload: np.ndarray) -> str:
        """Replace what is there by these bytes. Returns the name to map them by, good until the next put()."""
        if payload.nbytes > self._size:
            os.ftruncate(self._file, payload.nbytes)
            self._size = payload.nbytes
        with mmap.mmap(self._file, self._size) as memory:
            target = np.frombuffer(memory, np.uint8)
            target[: payload.nbytes] = payload
            del target  # a map cannot be closed while an array looks at it
        return f"/proc/{os.getpid()}/fd/{self._file}"

    def close(self) -> None:
        os.close(self._file)


def mapped(name: str, nbytes: int) -> np.ndarray:
    """The first bytes of another process's SharedBuffer, read-only: they change with its next put()."""
    return np.memmap(name, np.uint8, mode="r", shape=(nbytes,))
