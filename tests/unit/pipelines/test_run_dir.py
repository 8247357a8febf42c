"""A run's directory belongs to one process at a time."""

import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import fsspec
import pytest
import yaml

from mmrlhf_ray.config import RunConfig
from mmrlhf_ray.errors import DataError, KnownError, RoleFailed, RunError, RunFailed
from mmrlhf_ray.pipelines.run_dir import CONFIG_FILE, TRACE_FILE, run_directory


def config(tmp_path: Path, **changes: object) -> RunConfig:
    return RunConfig.model_validate({"name": "run", "output_dir": str(tmp_path / "out"), "seed": 5} | changes)


def test_the_directory_holds_the_resolved_configuration(tmp_path: Path) -> None:
    cfg = config(tmp_path)
    with run_directory(cfg) as path:
        assert path == tmp_path / "out" / "run"
        written = yaml.safe_load((path / CONFIG_FILE).read_text())
    assert written["seed"] == 5
    assert written["checkpoint"] == {"every_steps": 50, "every_seconds": None, "keep": 2, "best": None}, (
        "defaults are written, too"
    )


def test_a_second_writer_is_refused_and_the_first_one_keeps_its_configuration(tmp_path: Path) -> None:
    with run_directory(config(tmp_path)) as path:
        with (
            pytest.raises(RunError, match="another process is writing to this run; wait for it or choose another name"),
            run_directory(config(tmp_path, seed=6)),
        ):
            pytest.fail("two writers")
        assert yaml.safe_load((path / CONFIG_FILE).read_text())["seed"] == 5
    with run_directory(config(tmp_path, seed=6)):
        pass


def test_other_runs_are_free(tmp_path: Path) -> None:
    with run_directory(config(tmp_path)), run_directory(config(tmp_path, name="other")):
        pass


def test_the_lock_is_between_processes_and_falls_with_its_holder(tmp_path: Path) -> None:
    with run_directory(config(tmp_path)) as path:
        pass
    # Another process that holds the run, without the seconds that importing everything takes.
    held = (
        "import fcntl, sys\n"
        f"lock = open({str(path / '.lock')!r}, 'w')\n"
        "fcntl.flock(lock, fcntl.LOCK_EX)\n"
        "print('held', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen([sys.executable, "-c", held], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"held\n"
            with pytest.raises(RunError), run_directory(config(tmp_path)):
                pytest.fail("two writers")
        finally:
            process.kill()
    with run_directory(config(tmp_path)):
        pass


def _fails(tmp_path: Path, error: Exception) -> Exception:
    with pytest.raises(KnownError) as caught, run_directory(config(tmp_path)):
        raise error
    return caught.value


def test_an_error_that_is_not_known_is_told_in_a_line_and_its_trace_is_kept(tmp_path: Path) -> None:
    error = _fails(tmp_path, OSError(71, "Protocol error"))
    assert type(error) is RunFailed
    assert str(error) == "OSError: [Errno 71] Protocol error"
    file = tmp_path / "out" / "run" / TRACE_FILE
    assert error.__cause__ is not None
    assert error.__cause__.__notes__ == [f"the full trace is in {file}"]
    assert file.read_text().endswith("OSError: [Errno 71] Protocol error\n")
    assert "in _fails" in file.read_text()


def test_a_failure_of_a_role_stays_what_it_is(tmp_path: Path) -> None:
    failure = RoleFailed("update: policy-1 died")
    assert _fails(tmp_path, failure) is failure
    assert failure.__notes__ == [f"the full trace is in {tmp_path / 'out' / 'run' / TRACE_FILE}"]


def test_an_error_of_the_users_needs_no_trace(tmp_path: Path) -> None:
    error = DataError("row 3")
    assert _fails(tmp_path, error) is error
    assert not (tmp_path / "out" / "run" / TRACE_FILE).exists()
    assert not hasattr(error, "__notes__")


def test_the_trace_goes_elsewhere_when_the_run_cannot_take_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "out" / "run" / TRACE_FILE).mkdir(parents=True)
    error = _fails(tmp_path, ValueError("x"))
    assert error.__cause__ is not None
    (note,) = error.__cause__.__notes__
    assert Path(note.removeprefix("the full trace is in ")).read_text().endswith("ValueError: x\n")


def test_where_nothing_can_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(RunError, match=r"output_dir: cannot write to .*/out/run: Not a directory; choose another"):
        run_directory(config(tmp_path)).__enter__()


def test_a_directory_at_a_url_is_uploaded_with_the_trace_of_a_failure(tmp_path: Path) -> None:
    cfg = config(tmp_path, output_dir=f"memory://{uuid4().hex}", work_dir=str(tmp_path / "work"))
    with pytest.raises(RunFailed, match="^ValueError: x$"), run_directory(cfg):
        raise ValueError("x")
    path = tmp_path / "work" / "run"
    storage, root = fsspec.url_to_fs(cfg.run_url)
    assert sorted(storage.ls(root, detail=False)) == [f"{root}/{CONFIG_FILE}", f"{root}/{TRACE_FILE}"]
    assert storage.cat_file(f"{root}/{TRACE_FILE}") == (path / TRACE_FILE).read_bytes()
    storage.rm(root, recursive=True)
