import shlex
import sys
from pathlib import Path

import pytest

from mmrlhf_ray.errors import ConfigError, RunError
from mmrlhf_ray.runtime import submit

JOB = """
job: sft
name: tiny
model: {path: runs/base}
data: {path: /shared/data}
eval_data: {path: runs/held-out}
steps: 3
"""
LOCAL = "http://127.0.0.1:8265"


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "tiny.yaml").write_text(JOB)
    return tmp_path


def test_the_job_is_told_the_root_and_keeps_its_overrides(checkout: Path) -> None:
    job = submit.prepare(
        Path("jobs/tiny.yaml"),
        ["learner.engine.zero_stage=1"],
        LOCAL,
        root=Path("/mnt/team"),
        resume=True,
        supervise=3,
    )
    assert shlex.split(job.entrypoint) == [
        sys.executable, "-P", "-m", "mmrlhf_ray.cli", "sft", "jobs/tiny.yaml", "learner.engine.zero_stage=1",
        "--root", "/mnt/team", "--resume", "--supervise", "3",
    ]  # fmt: skip
    assert job.working_dir == checkout


def test_the_root_is_the_current_directory_and_a_remote_cluster_has_its_own_python(checkout: Path) -> None:
    job = submit.prepare(Path("jobs/tiny.yaml"), [], "http://head.example:8265")
    assert job.entrypoint.startswith("python -P -m mmrlhf_ray.cli sft jobs/tiny.yaml ")
    assert shlex.split(job.entrypoint)[-2:] == ["--root", str(checkout)]


def test_a_wrong_job_is_refused_before_the_cluster_is_asked(checkout: Path) -> None:
    with pytest.raises(ConfigError, match="zero_stag"):
        submit.prepare(Path("jobs/tiny.yaml"), ["engine.zero_stag=1"], LOCAL)
    (checkout.parent / "outside.yaml").write_text(JOB)
    with pytest.raises(ConfigError, match="outside"):
        submit.prepare(checkout.parent / "outside.yaml", [], LOCAL)


def test_values_of_the_environment_are_passed_on_but_not_shown(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEAM_KEY", "s3cret")
    job = submit.prepare(Path("jobs/tiny.yaml"), [], LOCAL, env=["TEAM_KEY"])
    assert job.env_vars == {"TEAM_KEY": "s3cret"}
    assert "s3cret" not in repr(job)
    with pytest.raises(RunError, match="NOT_THERE"):
        submit.prepare(Path("jobs/tiny.yaml"), [], LOCAL, env=["TEAM_KEY", "NOT_THERE"])


def test_an_upload_that_is_too_large_names_what_is_large(checkout: Path) -> None:
    for name in ("runs", ".venv", "data"):
        (checkout / name).mkdir()
        (checkout / name / "blob").write_bytes(b"x" * 3000)
    assert submit.check_size(checkout, limit=4000) == 3000 + len(JOB)
    with pytest.raises(RunError, match=r"largest: data \(.*move data below runs/"):
        submit.check_size(checkout, limit=2000)


def test_no_cluster_is_one_clear_error(checkout: Path) -> None:
    job = submit.prepare(Path("jobs/tiny.yaml"), [], LOCAL)
    with pytest.raises(RunError, match="no Ray dashboard answers at http://127.0.0.1:1"):
        submit.submit(job, "http://127.0.0.1:1")


class Client:
    """Refuses a number of times, as a cluster that has just started does."""

    def __init__(self, refusals: int, words: str = "status code 500: No available agent to submit job") -> None:
        self.refusals = refusals
        self.words = words

    def submit_job(self, **given: object) -> str:
        self.refusals -= 1
        if self.refusals >= 0:
            raise RuntimeError(self.words)
        return "raysubmit_1"


def test_a_cluster_without_an_agent_yet_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submit, "_POLL_S", 0.0)
    assert submit._submit(Client(3), "mmrlhf", {}, LOCAL) == "raysubmit_1"
    with pytest.raises(RunError, match="did not take the job: no room"):
        submit._submit(Client(1, "no room"), "mmrlhf", {}, LOCAL)
    monkeypatch.setattr(submit, "_AGENT_S", 0.0)
    with pytest.raises(RunError, match="another --dashboard-agent-listen-port"):
        submit._submit(Client(10**6), "mmrlhf", {}, LOCAL)


def test_a_copy_is_uploaded_without_what_is_left_out(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (checkout / "runs").mkdir()
    (checkout / "runs" / "weights").write_bytes(b"x" * 10)
    with submit._copy(checkout) as copy:
        assert [str(p.relative_to(copy)) for p in copy.rglob("*") if p.is_file()] == ["jobs/tiny.yaml"]
        (checkout / "grows.log").write_text("x")
        assert not (copy / "grows.log").exists()
    assert not copy.exists()
    assert capsys.readouterr().err == "uploading 1 file, 0.0 MiB\n"
