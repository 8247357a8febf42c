"""A Ray head as cluster/local.sh starts it, for tests that submit jobs."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mmrlhf_ray.runtime import processes

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Cluster:
    """Where it is and what it takes to use it."""

    url: str
    """Of the dashboard, which also takes jobs."""
    address: str
    """For RAY_ADDRESS."""
    token_file: Path
    directory: Path
    """Ray's own files."""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def local_cluster(extra: Mapping[str, str] | None = None) -> Iterator[Cluster]:
    """A head on free ports with a token of its own and `extra` in its environment; at the end it must leave nothing."""
    ports = {name: _free_port() for name in ("RAY_PORT", "DASHBOARD_PORT", "client", "agent")}
    mark = f"cluster-{os.getpid()}-{time.monotonic_ns()}"
    with tempfile.TemporaryDirectory(prefix="mmrlhf-", dir="/tmp") as name:
        directory = Path(name)
        token = directory / "token"
        token.write_text("c" * 64)
        environment = {
            **{k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"},
            **{k: str(port) for k, port in ports.items() if k.isupper()},
            "RAY_AUTH_TOKEN_PATH": str(token),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
            processes.MARK: mark,
            "SPT_NOENV": "1",  # so that no process title is written over the mark
            **(extra or {}),
        }
        options = ["--num-cpus", "2", "--temp-dir", name, "--object-store-memory", "200000000"]
        options += ["--ray-client-server-port", str(ports["client"])]
        options += ["--dashboard-agent-listen-port", str(ports["agent"])]
        log = directory / "local.log"
        with log.open("w") as out:
            head = subprocess.Popen(
                [str(ROOT / "cluster" / "local.sh"), *options], env=environment, stdout=out, stderr=subprocess.STDOUT
            )
        try:
            _wait_until_started(head, log)
            urls = (f"http://127.0.0.1:{ports['DASHBOARD_PORT']}", f"127.0.0.1:{ports['RAY_PORT']}")
            yield Cluster(*urls, token, directory)
        finally:
            head.send_signal(signal.SIGTERM)
            head.wait(timeout=300)
            left = processes.end_marked(mark, 30)
        assert left == []


def _wait_until_started(head: "subprocess.Popen[bytes]", log: Path) -> None:
    until = time.monotonic() + 600
    while "Ray runtime started" not in log.read_text():
        assert head.poll() is None, log.read_text()
        assert time.monotonic() < until, log.read_text()
        time.sleep(0.2)
