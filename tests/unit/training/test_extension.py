"""Nobody waits for a compiler that is gone; whoever compiles is waited for, but not forever."""

import shutil
import sys
from pathlib import Path

import pytest

from mmrlhf_ray.errors import DeadlineExceeded
from mmrlhf_ray.runtime import doctor
from mmrlhf_ray.training import extension


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the extension is compiled."""
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    path = tmp_path / extension.COLLECTIVES.name
    path.mkdir()
    return path


def test_the_mark_of_a_compiler_that_is_gone_is_removed(directory: Path) -> None:
    lock = directory / "lock"
    lock.touch()
    assert extension.stale_locks() == [lock]
    extension._wait_for_others(lock, until=0.0)
    assert not lock.exists()


def test_one_that_is_at_work_is_waited_for_until_the_deadline(directory: Path) -> None:
    lock = directory / "lock"
    with lock.open("w"):
        assert extension.stale_locks() == []
        with pytest.raises(DeadlineExceeded, match=rf"process \d+ has been compiling it for too long; .* {lock}"):
            extension._wait_for_others(lock, until=0.0)
    assert lock.exists()


def test_one_process_at_a_time(directory: Path) -> None:
    path = directory / "building"
    with (
        extension._alone(path, 0.0),
        pytest.raises(DeadlineExceeded, match="for too long"),
        extension._alone(path, 0.0),
    ):
        pytest.fail("two at a time")
    with extension._alone(path, 0.0):
        pass


def test_all_processes_find_one_ninja(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "ninja"
    other.write_text("#!/bin/sh\n")
    other.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert shutil.which("ninja") == str(other)
    with extension._own_ninja():
        assert shutil.which("ninja") == str(Path(sys.executable).with_name("ninja"))
    assert shutil.which("ninja") == str(other)


def test_doctor_knows_what_is_there(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "nvidia_gpus", lambda: [])
    found = doctor.check_extensions()
    assert (found.status, found.fixable) == ("warn", True)
    assert found.found.startswith("DeepSpeed's collectives for CPUs and DeepSpeed's Adam for CPUs not compiled yet")
    (directory / "lock").touch()
    assert "is of a compiler that is gone" in doctor.check_extensions().found
    (directory / "lock").unlink()
    (directory / f"{directory.name}.so").touch()
    assert doctor.check_extensions().found.startswith("DeepSpeed's Adam for CPUs not compiled yet")
    adam = directory.with_name(extension.CPU_ADAM.name)
    adam.mkdir()
    (adam / f"{adam.name}.so").touch()
    assert doctor.check_extensions().status == "ok"


def test_with_gpus_the_collectives_for_cpus_are_not_needed(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "nvidia_gpus", lambda: ["a GPU"])
    assert doctor.check_extensions().found.startswith("DeepSpeed's Adam for CPUs not compiled yet")


def test_environments_do_not_compile_over_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCH_EXTENSIONS_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    file = extension._root() / extension.CPU_ADAM.name / f"{extension.CPU_ADAM.name}.so"
    file.parent.mkdir(parents=True)
    file.touch()
    assert extension.built(extension.CPU_ADAM)
    monkeypatch.setattr(sys, "prefix", "/another/environment")
    assert not extension.built(extension.CPU_ADAM)
