"""No process of ours outlives its session, whatever ends the driver.

A session marks its environment; every process started below it inherits the mark, orphans included. At a normal
end the driver ends the marked processes itself. A watchdog, which is this file run as a script, does it when the
driver was killed: Ray's own processes notice that late (its agents after tens of seconds).

Only the standard library is imported, so that the watchdog starts at once and stays small.
"""

import multiprocessing
import os
import select
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

MARK = "MMRLHF_SESSION"
_POLL_S = 0.2


def marked(mark: str) -> list[int]:
    """Process ids of this user, without our own, whose environment at their start held the mark."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            environment = (entry / "environ").read_bytes()
        except OSError:  # ended meanwhile, or another user's
            continue
        if wanted in environment.split(b"\0"):
            found.append(int(entry.name))
    return found


def end_marked(mark: str, grace_s: float, spare: tuple[int, ...] = ()) -> list[int]:
    """Wait up to `grace_s` seconds for the marked processes to end, then kill the rest; those killed are returned."""
    until = time.monotonic() + grace_s
    while _left(mark, spare) and time.monotonic() < until:
        time.sleep(_POLL_S)
    killed = _left(mark, spare)
    for pid in killed:
        _kill(pid)
    while _left(mark, spare):
        # A process may have been started while the list was made.
        for pid in _left(mark, spare):
            _kill(pid)
        time.sleep(_POLL_S)
    return killed


def start_watchdog(mark: str, grace_s: float) -> "subprocess.Popen[bytes]":
    """A process in its own session that ends all marked processes as soon as this process is gone."""
    command = [sys.executable, "-I", "-S", __file__, mark, str(grace_s)]
    environment = {key: value for key, value in os.environ.items() if key != MARK}
    return subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def end_with_parent() -> None:
    """From now on kill this process as soon as the one that started it by `multiprocessing` has ended, however that
    ended. Nothing happens in a process that was started otherwise."""
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid is not None:
        end_with(parent.pid)


def end_with(pid: int) -> None:
    """From now on kill this process as soon as that other one has ended."""
    threading.Thread(target=_end_after, args=(pid,), daemon=True).start()


def _end_after(pid: int) -> None:
    with suppress(ProcessLookupError):  # it has ended already
        watch = select.poll()
        watch.register(os.pidfd_open(pid), select.POLLIN)  # readable once it has ended
        watch.poll()
    os.kill(os.getpid(), signal.SIGKILL)


def _left(mark: str, spare: tuple[int, ...]) -> list[int]:
    return [pid for pid in marked(mark) if pid not in spare]


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _watch(mark: str, grace_s: float) -> None:
    driver = os.getppid()
    while os.getppid() == driver:
        time.sleep(_POLL_S)
    end_marked(mark, grace_s)


if __name__ == "__main__":
    _watch(sys.argv[1], float(sys.argv[2]))
