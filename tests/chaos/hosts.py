"""Several hosts on one machine: network namespaces on a bridge, each with a Ray node. Needs root and `ip`."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.command import COMMAND
from tests.e2e.support import Running

GCS_PORT, DASHBOARD_PORT = 6379, 8265
_NETWORK = "10.77.{}.{}"
_STORE_BYTES = 200_000_000
_STARTED_S, _ENDED_S = 120.0, 60.0


def possible() -> bool:
    """Whether this process may make network namespaces."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    tried = f"mmrlhf-try-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", tried], capture_output=True, check=False).returncode == 0
    if made:
        _ip("netns", "del", tried)
    return made


@dataclass(frozen=True)
class Host:
    """One namespace: what runs in it sees its address and the bridge, and nothing else of this machine's network."""

    name: str
    namespace: str
    address: str
    wire: str
    """The bridge's end of its cable."""
    bridge: str
    """The namespace of the bridge."""

    def inside(self, *command: str) -> list[str]:
        """`command`, run on this host."""
        named = 'hostname "$0" && exec "$@"'
        return ["ip", "netns", "exec", self.namespace, "unshare", "--uts", "sh", "-c", named, self.name, *command]

    def start(self, *arguments: str, cwd: Path, env: dict[str, str]) -> Running:
        """`mmrlhf <arguments>` on this host; all that it says is on its standard output."""
        mark = f"{self.namespace}-{time.monotonic_ns()}"
        environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | env | {"MMRLHF_TEST": mark}
        process = subprocess.Popen(
            self.inside(COMMAND, *arguments), cwd=cwd, env=environment, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        return Running(process, mark)

    def processes(self) -> list[int]:
        """Process ids of everything that runs on it."""
        listed = subprocess.run(
            ["ip", "netns", "pids", self.namespace], capture_output=True, text=True, check=False
        ).stdout
        return [int(pid) for pid in listed.split()]

    def kill(self) -> None:
        """Everything on it at once, as where its power fails."""
        until = time.monotonic() + _ENDED_S
        while alive := self.processes():
            assert time.monotonic() < until, alive
            for pid in alive:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:  # with its parent
                    continue
            time.sleep(0.1)

    def cut(self) -> None:
        """Its cable is pulled out."""
        _ip("-n", self.bridge, "link", "set", self.wire, "down")

    def heal(self) -> None:
        """And put back."""
        _ip("-n", self.bridge, "link", "set", self.wire, "up")


class Network:
    """A bridge, the hosts on it, and one Ray cluster over them. The first host is its head."""

    def __init__(self, directory: Path, cpus: int, env: dict[str, str]):
        self.token = directory / "token"
        self.token.write_text("c" * 64)
        self.env = env | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.token), "OMP_NUM_THREADS": "1"}
        self.hosts: dict[str, Host] = {}
        self._directory, self._cpus = directory, cpus
        self._number, self._tag = os.getpid() % 250 + 1, f"mm{os.getpid()}"
        self._bridge = f"{self._tag}-bridge"
        _ip("netns", "add", self._bridge)
        _ip("-n", self._bridge, "link", "add", "bridge", "type", "bridge")
        _ip("-n", self._bridge, "link", "set", "bridge", "up")

    @property
    def head(self) -> Host:
        return next(iter(self.hosts.values()))

    @property
    def address(self) -> str:
        """For RAY_ADDRESS."""
        return f"{self.head.address}:{GCS_PORT}"

    def plug(self, name: str) -> Host:
        """A new host, on which nothing runs."""
        number, namespace = len(self.hosts) + 1, f"{self._tag}-{name}"
        host = Host(name, namespace, _NETWORK.format(self._number, number), f"to-{name}", self._bridge)
        self.hosts[name] = host
        _ip("netns", "add", namespace)
        _ip("link", "add", host.wire, "netns", self._bridge, "type", "veth", "peer", "name", "eth0", "netns", namespace)
        _ip("-n", self._bridge, "link", "set", host.wire, "master", "bridge", "up")
        _ip("-n", namespace, "addr", "add", f"{host.address}/24", "dev", "eth0")
        for device in ("eth0", "lo"):
            _ip("-n", namespace, "link", "set", device, "up")
        return host

    def join(self, name: str) -> Host:
        """A new host with a Ray node, once that is up."""
        host = self.plug(name)
        role = ["--address", self.address]
        if host == self.head:
            role = ["--head", "--port", str(GCS_PORT), "--include-dashboard", "true"]
            role += ["--dashboard-host", host.address, "--dashboard-port", str(DASHBOARD_PORT)]
        own, log = self._directory / name, self._directory / f"{name}.log"
        command = [
            str(Path(sys.executable).with_name("ray")), "start", *role, "--block", "--node-ip-address", host.address,
            "--num-cpus", str(self._cpus), "--object-store-memory", str(_STORE_BYTES), "--temp-dir", str(own),
            "--disable-usage-stats",
        ]  # fmt: skip
        environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | self.env
        environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        with log.open("w") as out:
            node = subprocess.Popen(host.inside(*command), env=environment, stdout=out, stderr=subprocess.STDOUT)
        until = time.monotonic() + _STARTED_S
        while "Ray runtime started" not in log.read_text():
            assert node.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.2)
        return host

    def down(self) -> None:
        """End all that runs on the hosts, and the hosts."""
        for host in self.hosts.values():
            host.kill()
            _ip("netns", "del", host.namespace)
        _ip("netns", "del", self._bridge)


@contextmanager
def network(names: Sequence[str], cpus: int, env: dict[str, str] | None = None) -> Iterator[Network]:
    """A Ray cluster of hosts with these names, `cpus` each; nothing of it is left."""
    with tempfile.TemporaryDirectory(prefix="mmrlhf-", dir="/tmp") as directory, ExitStack() as stack:
        net = Network(Path(directory), cpus, env or {})
        stack.callback(net.down)
        for name in names:
            net.join(name)
        yield net


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"
