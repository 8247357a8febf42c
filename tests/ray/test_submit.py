"""Jobs on a cluster started by cluster/local.sh, with a token of its own."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mmrlhf_ray.config import save_config
from mmrlhf_ray.errors import RunError
from mmrlhf_ray.pipelines.discrete.report import REPORT_FILE
from mmrlhf_ray.runtime.submit import Job, prepare, submit
from tests.cluster import ROOT, local_cluster
from tests.ray.discrete_support import job, make_data

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
    file, threads, key = deadline_get(Actor.remote().see.remote(), 180, "see")
    print("started here", session.started_here)
    print("uploaded code", file.startswith(os.getcwd()))
    print("environment", threads, key)
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The dashboard's address of a cluster that does not know what is in this process's environment."""
    with local_cluster() as started, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_TOKEN_PATH", str(started.token_file))
        patch.setenv("TEAM_KEY", "s3cret")
        yield started.url


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


def test_a_discrete_job_decides_on_the_cluster(
    cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    data = make_data(Path("data"))  # named by a relative path, which the job's copy of the directory is not at
    save_config(job(data, Path("runs"), {"kind": "ppo"}), Path("job.yaml"))
    assert submit(prepare(Path("job.yaml"), ["env_runners.replicas=1"], cluster), cluster)
    assert "100 held-out cases" in capfd.readouterr().out
    assert (tmp_path / "runs" / "small" / REPORT_FILE).is_file()


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
