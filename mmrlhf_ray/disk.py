"""Writes that find no room: the error names the file and its disk."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmrlhf_ray.errors import KnownError, RunFailed

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
# Writers in C++ and Rust raise errors of their own; torch's says only that a position is not as expected.
_WORDS = ("no space left on device", "disk quota exceeded", "inline_container", "pytorchstreamwriter")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """For a block that writes `path`, or below it. Raises RunFailed with its disk where there was no room."""
    try:
        yield
    except Exception as error:
        if isinstance(error, KnownError) or not _no_room(error):
            raise
        mount = _mount(path)
        usage = shutil.disk_usage(mount)
        raise RunFailed(
            f"{path}: no room left to write it: the disk at {mount} has {usage.free >> 20} of {usage.total >> 20} MiB "
            "free; free some, or set output_dir to another disk"
        ) from error


def _no_room(error: BaseException) -> bool:
    seen: set[int] = set()
    at: BaseException | None = error
    while at is not None and id(at) not in seen:
        seen.add(id(at))
        if isinstance(at, OSError) and at.errno in _FULL:
            return True
        if any(word in str(at).lower() for word in _WORDS):
            return True
        at = at.__cause__ or at.__context__
    return False


def _mount(path: Path) -> Path:
    at = path.resolve()
    while not os.path.ismount(at):
        at = at.parent
    return at
