"""A run's directory belongs to one process at a time."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mmrlhf_ray.config import RunConfig
from mmrlhf_ray.errors import RunError
from mmrlhf_ray.pipelines.run_dir import CONFIG_FILE, run_directory


def config(tmp_path: Path, **changes: object) -> RunConfig:
    return RunConfig.model_validate({"name": "run", "output_dir": str(tmp_path / "out"), "seed": 5} | changes)


def test_the_directory_holds_the_resolved_configuration(tmp_path: Path) -> None:
    cfg = config(tmp_path)
    with run_directory(cfg) as path:
        assert path == tmp_path / "out" / "run"
        written = yaml.safe_load((path / CONFIG_FILE).read_text())
    assert written["seed"] == 5
    assert written["checkpoint"] == {"every_steps": 50, "keep": 2}, "defaults are written, too"


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
