"""Writes that a disk or a limit of this process does not allow: the error names the file, the disk and the remedy."""

import errno
import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmrlhf_ray.errors import KnownError, RunFailed

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_FILES = frozenset({errno.EMFILE, errno.ENFILE})
_GONE = frozenset({errno.EIO, errno.ESTALE, errno.ENOTCONN})
# Writers in C++ and Rust raise errors of their own; torch's says only that a position is not as expected.
_WORDS = ("no space left on device", "disk quota exceeded", "inline_container", "pytorchstreamwriter")


@contextmanager
def writing(path: Path, key: str = "output_dir") -> Iterator[None]:
    """For a block that writes `path`, or below it; `key` is what says where that is. Raises RunFailed as problem() says
    it."""
    try:
        yield
    except Exception as error:
        what = None if isinstance(error, KnownError) else problem(error, path, key)
        if what is None:
            raise
        raise RunFailed(what) from error


def problem(error: BaseException, path: Path, key: str = "output_dir") -> str | None:
    """What kept `path`, or a file below it, from being written, and what to do: no room, a disk that is read-only or
    does not answer, too many open files. None where `error` and its causes are about something else."""
    for at in _causes(error):
        code = at.errno if isinstance(at, OSError) else None
        if code in _FULL or any(word in str(at).lower() for word in _WORDS):
            return f"{path}: no room left to write it: {_room(path)}; free some, or set {key} to another disk"
        if code == errno.EROFS:
            return (
                f"{path}: cannot be written: the disk at {_mount(path)} is read-only, which some become after an error "
                f"of their own; make it writable, or set {key} to another disk"
            )
        if code in _FILES:
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            return (
                f"{path}: cannot be written: this process has {soft} files open, and may not have more (hard limit "
                f"{hard}); raise it: ulimit -n 65536"
            )
        if code in _GONE:
            return (
                f"{path}: cannot be written: the disk at {_mount(path)} does not take it ({os.strerror(code or 0)}); "
                f"see to it, or set {key} to another disk"
            )
    return None


def _room(path: Path) -> str:
    mount = _mount(path)
    usage, files = shutil.disk_usage(mount), os.statvfs(mount)
    said = f"the disk at {mount} has {usage.free >> 20} of {usage.total >> 20} MiB free"
    return f"{said}, but no inode" if files.f_files and not files.f_favail else said


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    at: BaseException | None = error
    while at is not None and id(at) not in seen:
        seen.add(id(at))
        yield at
        at = at.__cause__ or at.__context__


def _mount(path: Path) -> Path:
    at = Path(os.path.abspath(path))  # a disk that is gone cannot be asked where links lead
    while not os.path.ismount(at):
        at = at.parent
    return at
