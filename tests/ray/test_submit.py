"""Jobs on a cluster started by cluster/local.sh, with a token of its own."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mmrlhf_ray.runtime import processes
from mmrlhf_ray.runtime.errors import RunError
from mmrlhf_ray.runtime.submit import Job, submit

ROOT = Path(__file__).parents[2]
DRIVER = """
import os, ray
from mmrlhf_ray.runtime.session import ray_session
from mmrlhf_ray.runtime.waits import deadline_get

@ray.remote(num_cpus=0)
class Actor:
    def see(self):
        import mmrlhf_ray
        return mmrlhf_ray.__file__, os.environ["OMP_NUM_THREADS"], os.environ["TEAM_KEY"]

with ray_session() as session:
    file, threads, key = deadline_get(Actor.remote().see.remote(), 60, "see")
    print("started here", session.started_here)
    print("uploaded code", file.startswith(os.getcwd()))
    print("environment", threads, key)
"""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """A head as cluster/local.sh starts it; gives the dashboard's address, ends it, and checks that nothing is left."""
    ports = {name: _free_port() for name in ("RAY_PORT", "DASHBOARD_PORT", "client", "agent")}
    mark = f"cluster-{os.getpid()}-{time.monotonic_ns()}"
    with tempfile.TemporaryDirectory(prefix="mmrlhf-", dir="/tmp") as directory, pytest.MonkeyPatch.context() as patch:
        token = Path(directory) / "token"
        token.write_text("c" * 64)
        patch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
        patch.setenv("TEAM_KEY", "s3cret")
        environment = {
            **{k: v for k, v in os.environ.items() if k not in ("TEAM_KEY", "RAY_ADDRESS")},
            **{name: str(port) for name, port in ports.items() if name.isupper()},
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
            processes.MARK: mark,
        }
        options = ["--num-cpus", "2", "--temp-dir", directory, "--object-store-memory", "200000000"]
        options += ["--ray-client-server-port", str(ports["client"])]
        options += ["--dashboard-agent-listen-port", str(ports["agent"])]
        log = Path(directory) / "local.log"
        with log.open("w") as out:
            head = subprocess.Popen(
                [str(ROOT / "cluster" / "local.sh"), *options], env=environment, stdout=out, stderr=subprocess.STDOUT
            )
        try:
            until = time.monotonic() + 120
            while "Ray runtime started" not in log.read_text():
                assert head.poll() is None, log.read_text()
                assert time.monotonic() < until, log.read_text()
                time.sleep(0.2)
            yield f"http://127.0.0.1:{ports['DASHBOARD_PORT']}"
        finally:
            head.send_signal(signal.SIGTERM)
            head.wait(timeout=60)
            left = processes.end_marked(mark, 30)
        assert left == []


def test_a_job_runs_the_uploaded_code_on_the_cluster(
    cluster: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "driver.py").write_text(DRIVER)
    subprocess.run(["cp", "-r", str(ROOT / "mmrlhf_ray"), str(tmp_path)], check=True)
    assert submit(Job(f"{sys.executable} driver.py", tmp_path, {"TEAM_KEY": "s3cret"}), cluster)
    out, err = capfd.readouterr()
    assert "started here False" in out
    assert "uploaded code True" in out
    assert "environment 1 s3cret" in out
    assert "SUCCEEDED" in err
    assert "s3cret" not in err


def test_a_job_that_fails_is_reported_as_such(cluster: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert not submit(Job(f"{sys.executable} -c 'print(12321); raise SystemExit(3)'", tmp_path, {}), cluster)
    out, err = capfd.readouterr()
    assert "\n12321\n" in out
    assert "FAILED. Job entrypoint command failed with exit code 3" in err


def test_not_waiting_returns_at_once_and_says_how_to_follow(
    cluster: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert submit(Job("true", tmp_path, {}), cluster, wait=False)
    assert f"ray job logs --address {cluster} --follow raysubmit_" in capfd.readouterr().err


def test_another_token_is_refused_with_the_remedy(
    cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "d" * 64)
    with pytest.raises(RunError, match=r"another token than this machine's: put the cluster's token into"):
        submit(Job("true", tmp_path, {}), cluster)
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(RunError, match="there is no token here"):
        submit(Job("true", tmp_path, {}), cluster)
