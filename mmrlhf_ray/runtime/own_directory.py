"""A directory for what a process and its children leave lying about when they are killed."""

import fcntl
import os
import shutil
import tempfile
from pathlib import Path

_PREFIX = "mmrlhf-engine-"
_LONGEST = 60
"""Characters; a socket in it has a name of 37 more, and its path 107 at most."""


def own_directory(parent: Path) -> tuple[Path, int]:
    """A new directory below `parent` (or the system's temporary one, where that has too long a name), and the open file
    that says it is in use: by whoever has inherited it, until the last of them has ended.

    Those that no one uses any more are removed.
    """
    if len(str(parent)) > _LONGEST - len(_PREFIX) - 8:
        parent = Path(tempfile.gettempdir())
    for other in parent.glob(f"{_PREFIX}*"):
        _remove_unused(other)
    path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
    used = os.open(path, os.O_RDONLY)
    fcntl.flock(used, fcntl.LOCK_SH)
    return path, used


def _remove_unused(path: Path) -> None:
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:  # removed meanwhile, or another user's
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # it is in use
        return
    else:
        shutil.rmtree(path, ignore_errors=True)
    finally:
        os.close(file)
