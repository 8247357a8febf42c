"""One process that has imported what others import, and forks them.

A worker spends 6 of its 7 seconds of CPU time at the start on importing torch and transformers, a learner half as much
again on DeepSpeed, and a run has six workers and more: on two cores that is most of the time before the first step. Ray
starts workers with a Python of one's choice (`py_executable` of its runtime environments). `forked_python()` is one
that asks this server for a process, and goes on as a plain Python where there is no server any more.

Ray itself must not be among the imports: it reads what a worker is told by its environment when it is first imported.
Nothing that starts threads or touches a GPU may be either, for neither outlives a fork.
"""

import fcntl
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path

from setproctitle import setproctitle

from mmrlhf_ray.runtime import forked_python as asking

DOOR = "MMRLHF_FORK_SERVER"
"""The variable that tells where the server listens."""
IMPORTED = (
    "torch",
    "transformers",
    "transformers.tokenization_mistral_common",  # a processor asks for its class
    "mmrlhf_ray.models",
    "mmrlhf_ray.data.encoding",
    "mmrlhf_ray.training.build",
    "deepspeed.runtime.zero.muon.muon_optimizer",  # DeepSpeed looks at its class as an engine is made
)
_WAITING = 256
"""Processes that may be asked for while the modules are imported."""
_ANSWER_S = 10.0
"""For an asker, which is on this machine, to say all that it wants."""


def start(door: Path, modules: Sequence[str] = IMPORTED) -> "subprocess.Popen[bytes]":
    """Start a server at the socket `door`. It ends when this process has ended, however that ended."""
    with socket.socket(socket.AF_UNIX) as listening:
        # Bound here, so that whoever asks from now on waits for the imports instead of finding nothing.
        listening.bind(str(door))
        listening.listen(_WAITING)
        return subprocess.Popen(
            [sys.executable, "-m", __name__, str(listening.fileno()), str(os.getpid()), *modules],
            pass_fds=[listening.fileno()],
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is the driver's
        )


def forked_python() -> list[str]:
    """The command that runs `script arguments` or `-c code` as Python does, in a process forked by the server of this
    session; Python itself where the session has none."""
    door = os.environ.get(DOOR)
    return [sys.executable, "-I", "-S", asking.__file__, door] if door else [sys.executable]


@dataclass(frozen=True)
class Asked:
    """A process that is asked for: `python *arguments` with these variables, in this directory."""

    arguments: Sequence[str]
    env: Mapping[str, str]
    directory: str
    files: Mapping[int, int]
    """Its open files: by the numbers that they shall have, those that they have here."""
    asker: socket.socket
    """Waits for its exit status."""


@dataclass(frozen=True)
class _Child:
    pid: int
    ends: int
    """A file that is readable once the process has ended."""
    asker: socket.socket
    """Readable once whoever asked for it has ended."""

    def forget(self) -> None:
        os.close(self.ends)
        self.asker.close()


def serve(door: socket.socket, driver: int) -> Asked | None:
    """Fork a process for each who asks at the door, until the process `driver` has ended.

    Returns None in the server, and what was asked for in a process that it has forked.
    """
    driver_ends = os.pidfd_open(driver)
    children: list[_Child] = []
    while True:
        ready = wait([driver_ends, door, *(file for child in children for file in (child.ends, child.asker))])
        if driver_ends in ready:
            return None
        for child in list(children):
            if child.ends in ready:
                _tell_status(child)
                child.forget()
                children.remove(child)
            elif child.asker in ready:  # whoever has killed it means the process
                os.kill(child.pid, signal.SIGKILL)
        if door in ready and (asked := _next(door)):
            pid = os.fork()
            if pid == 0:
                os.close(driver_ends)
                for child in children:
                    child.forget()
                return asked
            for file in asked.files.values():
                os.close(file)
            children.append(_Child(pid, os.pidfd_open(pid), asked.asker))


def _next(door: socket.socket) -> Asked | None:
    """None for one that has ended while it asked."""
    asker, _ = door.accept()
    asker.settimeout(_ANSWER_S)
    with ExitStack() as on_failure:
        on_failure.callback(asker.close)
        try:
            length, files, _, _ = socket.recv_fds(asker, asking.LENGTH_BYTES, asking.MOST_FILES)
            body = json.loads(_exactly(asker, int.from_bytes(length, "big")))
        except (OSError, EOFError):
            return None
        on_failure.pop_all()
    return Asked(body["arguments"], body["env"], body["directory"], dict(zip(body["files"], files, strict=True)), asker)


def _exactly(asker: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        part = asker.recv(size - len(received))
        if not part:
            raise EOFError
        received += part
    return received


def _tell_status(child: _Child) -> None:
    _, status = os.waitpid(child.pid, 0)
    code = os.waitstatus_to_exitcode(status)
    with suppress(OSError):  # the asker has ended before it
        child.asker.sendall(bytes([code if code >= 0 else 128 - code]))


def become(asked: Asked) -> None:
    """Run what was asked for, as a Python started for it would."""
    asked.asker.close()
    os.setsid()
    _take_files(asked.files)
    what, *arguments = asked.arguments
    if what == "-c":  # workers of Ray get their titles from Ray, which takes a title that was changed before for none
        setproctitle(" ".join(["python", *asked.arguments]))  # it has no more room than the server's own
    _take_variables(asked.env)
    os.chdir(asked.directory)
    _compute_as_told()
    if what == "-c":
        code, *arguments = arguments
        sys.argv, sys.path[0] = ["-c", *arguments], ""
        exec(code, {"__name__": "__main__"})
    else:
        sys.argv, sys.path[0] = [what, *arguments], os.path.dirname(what)
        runpy.run_path(what, run_name="__main__")


def _take_files(files: Mapping[int, int]) -> None:
    """Give them their numbers. First they go above all of those: one may have now what another shall have."""
    above = max(files) + 1
    moved = {number: fcntl.fcntl(file, fcntl.F_DUPFD, above) for number, file in files.items()}
    for file in files.values():
        os.close(file)
    for number, file in moved.items():
        os.dup2(file, number)
        os.close(file)


def _take_variables(env: Mapping[str, str]) -> None:
    """Only those that differ are set: Ray's title for the process has its place where the first was at the start."""
    for key in os.environ.keys() - env.keys():
        del os.environ[key]
    for key in env:
        if os.environ.get(key) != env[key]:
            os.environ[key] = env[key]
    paths = env.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[1:1] = [path for path in paths if path and path not in sys.path]


def _compute_as_told() -> None:
    """What libraries do when a process loads them: here they were loaded before it had its variables."""
    import numpy as np
    import torch

    threads, *_ = os.environ["OMP_NUM_THREADS"].split(",")  # further ones are those of nested regions
    torch.set_num_threads(int(threads))
    np.random.seed()


def _main(door_file: int, driver: int, modules: Sequence[str]) -> None:
    with socket.socket(fileno=door_file) as door:
        # What is imported is never garbage: looking for some takes a fifth of the time, and later it would copy the
        # pages that the processes share.
        gc.disable()
        for name in modules:
            importlib.import_module(name)
        gc.freeze()
        gc.enable()
        asked = serve(door, driver)
    if asked is not None:
        become(asked)


if __name__ == "__main__":
    _main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
