"""What of a session can be seen without starting Ray; the rest is in tests/ray."""

import json
import os
import signal
import stat
import subprocess
import sys
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from mmrlhf_ray.errors import RunError
from mmrlhf_ray.runtime import session


def test_the_users_environment_wins_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with session._environment(session.WORKER_ENV):
        assert os.environ["OMP_NUM_THREADS"] == "4"
        assert os.environ["HF_HUB_OFFLINE"] == "1"
    assert os.environ["OMP_NUM_THREADS"] == "4"
    assert "HF_HUB_OFFLINE" not in os.environ


def test_a_jobs_variables_win_and_what_was_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NCCL_DEBUG", "WARN")
    monkeypatch.delenv("NCCL_ALGO", raising=False)
    with session._replaced({"NCCL_DEBUG": "INFO", "NCCL_ALGO": "Ring"}):
        assert (os.environ["NCCL_DEBUG"], os.environ["NCCL_ALGO"]) == ("INFO", "Ring")
    assert os.environ["NCCL_DEBUG"] == "WARN"
    assert "NCCL_ALGO" not in os.environ


def test_logs_are_kept_after_an_error_and_removed_after_success() -> None:
    with session._private_directory() as directory:
        assert directory.is_dir()
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert not directory.exists()
    with pytest.raises(KeyError) as caught, session._private_directory() as directory:
        raise KeyError("x")
    assert directory.is_dir()
    assert str(directory) in caught.value.__notes__[0]
    directory.rmdir()


def test_job_submission_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")
    with pytest.raises(RunError, match="mmrlhf submit"), session.ray_session():
        pass


def test_variables_of_the_job_are_not_set_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    assert session._job_env_vars() == {}
    config = {"runtime_env": {"env_vars": {"OMP_NUM_THREADS": "2"}}}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(config))
    assert session._job_env_vars() == {"OMP_NUM_THREADS": "2"}


@pytest.mark.parametrize("slow_starts", [1, 2])
def test_ray_that_was_too_slow_is_started_once_more(slow_starts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    starts: list[str] = []

    def init(**settings: Any) -> SimpleNamespace:
        starts.append(settings["_temp_dir"])
        if len(starts) <= slow_starts:
            raise Exception("The current node timed out during startup. This could happen because of this and that.")
        return SimpleNamespace(dashboard_url=None, address_info={"gcs_address": "here"})

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(ray, "cluster_resources", dict)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    failing = pytest.raises(RunError, match="Ray did not start .* timed out during startup")
    with nullcontext() if slow_starts == 1 else failing, session.ray_session() as info:
        assert info.address == "here"
    assert len(starts) == len(set(starts)) == 2, "each in a directory of its own"


def test_a_notice_that_comes_by_several_ways_is_one() -> None:
    before = signal.signal(signal.SIGTERM, lambda *_: pytest.fail("ended at once"))
    try:
        with session.notice() as noticed:
            assert not noticed()
            for _ in range(3):
                signal.raise_signal(signal.SIGTERM)
            assert noticed()
        with pytest.raises(pytest.fail.Exception):  # afterwards it ends again
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(("hard", "told"), [(1023, "a process may open 1023 files here"), (1024, "")])
def test_too_few_open_files_are_refused(hard: int, told: str) -> None:
    """In a process of its own, which cannot raise the limit again."""
    code = (
        "import resource, sys\n"
        "from mmrlhf_ray.errors import RunError\n"
        "from mmrlhf_ray.runtime.session import check_open_files\n"
        "hard = int(sys.argv[1])\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))\n"
        "try:\n    check_open_files()\nexcept RunError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(hard)], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(told)
    assert bool(done.stdout) == bool(told)
