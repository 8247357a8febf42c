"""DeepSpeed's extensions: compiled once for an environment, and nobody waits for a compiler that is gone.

torch marks a compile by a file that stays when the compiling process is killed, and then waits for it forever. It keeps
one build for all environments of a Python, and compiles anew whenever another one's paths are in it: each has its own.
Run as a script, this builds the extension that is named.
"""

import fcntl
import hashlib
import os
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from mmrlhf_ray.errors import DeadlineExceeded, RunFailed

_LOCK = "lock"
_BUILD_S = 900.0
_POLL_S = 0.2


@dataclass(frozen=True)
class Extension:
    """What DeepSpeed compiles at first use, with a C++ compiler alone, on machines with GPUs as well."""

    name: str
    builder: str
    """Its builder, as DeepSpeed's accelerators name it."""
    title: str


COLLECTIVES = Extension("deepspeed_shm_comm", "ShareMemCommBuilder", "DeepSpeed's collectives for CPUs")
"""Loaded by every rank on a CPU."""
CPU_ADAM = Extension("cpu_adam", "CPUAdamBuilder", "DeepSpeed's Adam for CPUs")
"""The optimizer where its state stays in host memory (`engine.offload_optimizer`)."""
EXTENSIONS = (COLLECTIVES, CPU_ADAM)


def built(extension: Extension) -> bool:
    """Whether it is there, as far as can be told without importing torch."""
    return (_root() / extension.name / f"{extension.name}.so").exists()


def stale_locks() -> list[Path]:
    """Marks of compiles whose process is gone."""
    locks = (_root() / extension.name / _LOCK for extension in EXTENSIONS)
    return [lock for lock in locks if lock.exists() and not _holder(lock)]


def build_here(extension: Extension) -> None:
    """Build it in a process of its own where it is not there, saying so. Raises RunFailed where it cannot be built."""
    if built(extension):
        return
    print(f"compiling {extension.title}, once for this environment (1 to 3 minutes)", file=sys.stderr)
    command = [sys.executable, "-P", "-m", __name__, extension.name]
    try:
        done = subprocess.run(
            command,
            env=os.environ | {"DS_ACCELERATOR": "cpu"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_BUILD_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise DeadlineExceeded(f"compiling {extension.title} took more than {_BUILD_S:g} s") from error
    if done.returncode:
        killed = f"its compiler was ended by signal {-done.returncode}" if done.returncode < 0 else "no reason given"
        last = next(reversed(done.stderr.strip().splitlines()), killed)
        raise RunFailed(f"{extension.title} could not be compiled: {last}; `mmrlhf doctor` looks for the compiler")


def build(extension: Extension, seconds: float = _BUILD_S) -> None:
    """Compile and load it in this process, one process of the machine at a time.

    Raises DeadlineExceeded naming whoever compiles for longer than `seconds`.
    """
    from deepspeed.accelerator import get_accelerator
    from torch.utils.cpp_extension import _get_build_directory  # where the load() below compiles

    builder = get_accelerator().create_op_builder(extension.builder)
    if builder is None:
        return
    os.environ["TORCH_EXTENSIONS_DIR"] = str(_root())
    directory = Path(_get_build_directory(extension.name, verbose=False))
    until = time.monotonic() + seconds
    with _alone(directory.with_name(f"{extension.name}.building"), until), _own_ninja():
        _wait_for_others(directory / _LOCK, until)
        builder.load(verbose=False)


@contextmanager
def _own_ninja() -> Iterator[None]:
    """This environment's `ninja` is found first: one of another version compiles anew what this one has compiled, and
    the other way round, whenever some processes find one and some the other."""
    before = os.environ.get("PATH", os.defpath)
    os.environ["PATH"] = os.pathsep.join((sysconfig.get_path("scripts"), before))
    try:
        yield
    finally:
        os.environ["PATH"] = before


@contextmanager
def _alone(path: Path, until: float) -> Iterator[None]:
    """Held by this process; the kernel gives it back when the holder ends, however it does."""
    with path.open("w") as file:
        while not _locked(file):
            _check_time(path, until)
            time.sleep(_POLL_S)
        yield


def _locked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _wait_for_others(lock: Path, until: float) -> None:
    """Until no other program compiles the extension; the mark of one that is gone is removed."""
    while lock.exists():
        if not _holder(lock):
            lock.unlink(missing_ok=True)
            return
        _check_time(lock, until)
        time.sleep(_POLL_S)


def _check_time(path: Path, until: float) -> None:
    if time.monotonic() > until:
        raise DeadlineExceeded(
            f"DeepSpeed's extension: process {_holder(path) or 'of another user'} has been compiling it for too long; "
            f"end it and remove {path}"
        )


def _holder(path: Path) -> int | None:
    """A process that has the file open."""
    resolved = path.resolve()
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if link.readlink() == resolved:
                return int(link.parts[2])
        except OSError:  # closed meanwhile, or another user's
            continue
    return None


def _root() -> Path:
    """Where this environment's extensions are compiled."""
    if given := os.environ.get("TORCH_EXTENSIONS_DIR"):
        return Path(given)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    environment = hashlib.sha256(sys.prefix.encode()).hexdigest()[:8]
    return cache / "torch_extensions" / f"py{sys.version_info.major}{sys.version_info.minor}_{environment}"


if __name__ == "__main__":
    build(next(extension for extension in EXTENSIONS if extension.name == sys.argv[1]))
