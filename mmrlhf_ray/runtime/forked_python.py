"""What is run in Python's place: asks the fork server for a process, hands it all open files, and is there for as long
as that process is.

Run as a script, of the standard library alone, so that it starts at once.
"""

import array
import json
import os
import socket
import sys
from contextlib import suppress

LENGTH_BYTES = 4
MOST_FILES = 253
"""That Linux passes at once (SCM_MAX_FD)."""


def main(door: str, arguments: list[str]) -> int:
    """The exit status of the process. Becomes a plain Python itself where the server is gone."""
    files = _open_files()
    with socket.socket(socket.AF_UNIX) as server:
        try:
            server.connect(door)
        except OSError as error:
            print(f"no fork server at {door} ({error}): starting without it", file=sys.stderr, flush=True)
            os.execv(sys.executable, [sys.executable, *arguments])
        asked = {"arguments": arguments, "env": dict(os.environ), "directory": os.getcwd(), "files": files}
        body = json.dumps(asked).encode()
        passed = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))
        server.sendmsg([len(body).to_bytes(LENGTH_BYTES, "big")], [passed])
        server.sendall(body)
        for file in files:
            if file > sys.stderr.fileno():  # a socket is closed when the process closes it
                os.close(file)
        status = server.recv(1)
    return status[0] if status else 1


def _open_files() -> list[int]:
    files = []
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # the one of the listing, which is closed
            os.fstat(int(name))
            files.append(int(name))
    return sorted(files)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
