"""A feedback server as a process of its own, and a PostgreSQL for it."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

_BINARIES = Path("/usr/lib/postgresql/15/bin")
START_S = 180


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Server:
    """`mmrlhf feedback serve`, which may be killed and started again on the same port."""

    settings: list[str]
    log: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Returns once it answers."""
        sets = [word for setting in (*self.settings, f"port={self.port}") for word in ("--set", setting)]
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", "mmrlhf_ray.cli", "feedback", "serve", *sets]
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        until = time.monotonic() + START_S
        while time.monotonic() < until:
            assert self.process.poll() is None, self.log.read_text()
            try:
                httpx.get(f"{self.url}/login", timeout=5)
            except httpx.TransportError:
                time.sleep(0.05)
            else:
                return
        raise AssertionError(f"no answer within {START_S} s: {self.log.read_text()}")

    def stop(self, how: signal.Signals) -> int:
        """Exit status."""
        assert self.process is not None
        self.process.send_signal(how)
        return self.process.wait(30)


@contextmanager
def running(settings: list[str], log: Path) -> Iterator[Server]:
    """A server that is gone at the end, whatever happens."""
    server = Server(settings, log)
    try:
        server.start()
        yield server
    finally:
        if server.process is not None and server.process.poll() is None:
            server.stop(signal.SIGKILL)


def first_token(server: Server) -> str:
    """The administrator's token, which a server prints that finds a fresh database."""
    line = next(line for line in server.log.read_text().splitlines() if "token" in line)
    return line.rpartition(" ")[2]


def postgres_binary(name: str) -> str | None:
    """Path of a program of PostgreSQL, where it is installed."""
    return shutil.which(name, path=f"{_BINARIES}{os.pathsep}{os.environ.get('PATH', '')}")


@contextmanager
def postgresql() -> Iterator[str]:
    """URL of an empty database in a PostgreSQL of its own, which is gone at the end. It will not run as root."""
    home, port = Path(tempfile.mkdtemp(prefix="feedback-postgres-")), free_port()
    user = "nobody" if os.geteuid() == 0 else None
    secret = home / "password"
    secret.write_text("secret")
    if user is not None:
        for path in (home, secret):
            os.chown(path, pwd.getpwnam(user).pw_uid, -1)
    initdb, server = postgres_binary("initdb"), postgres_binary("postgres")
    assert initdb
    assert server
    run: dict[str, Any] = {"user": user, "cwd": home, "env": os.environ | {"HOME": str(home)}}
    subprocess.run(
        [initdb, "-D", home / "data", "-U", "feedback", "-A", "scram-sha-256", "--pwfile", secret, "-E", "UTF8"],
        check=True, capture_output=True, **run,
    )  # fmt: skip
    with (home / "log").open("wb") as log:
        options = ["-p", str(port), "-h", "127.0.0.1", "-k", str(home)]
        process = subprocess.Popen([server, "-D", home / "data", *options], stdout=log, stderr=log, **run)
    try:
        _wait_for(port, process, home / "log")
        yield f"postgresql://feedback:secret@127.0.0.1:{port}/postgres"
    finally:
        process.send_signal(signal.SIGINT)  # "fast": ends sessions
        process.wait(30)
        shutil.rmtree(home)


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    until, ready = time.monotonic() + START_S, postgres_binary("pg_isready")
    assert ready
    while time.monotonic() < until:
        assert process.poll() is None, log.read_text()
        if subprocess.run([ready, "-q", "-h", "127.0.0.1", "-p", str(port)], check=False).returncode == 0:
            return
        time.sleep(0.1)
    raise AssertionError(f"no answer within {START_S} s: {log.read_text()}")
