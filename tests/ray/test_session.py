"""ray_session and deadline_get on a real private Ray; what is left of a session after each way to end it."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import ray

from mmrlhf_ray.errors import DeadlineExceeded, ModelError, RoleFailed, RunError
from mmrlhf_ray.runtime import fork_server, processes
from mmrlhf_ray.runtime.session import SessionInfo, ray_session
from mmrlhf_ray.runtime.waits import deadline_get

DRIVER = """
import os, subprocess, sys, time
import ray
from mmrlhf_ray.runtime import processes
from mmrlhf_ray.runtime.session import ray_session

@ray.remote(num_cpus=0)
class Actor:
    def orphan(self):
        # In its own session, as a runaway data loader would be: Ray itself does not know of it.
        subprocess.Popen(["sleep", "1000"], start_new_session=True)

with ray_session(num_cpus=1):
    ray.get(Actor.remote().orphan.remote())
    print(os.environ[processes.MARK], ray._private.worker._global_node.get_temp_dir_path(), flush=True)
    if sys.argv[1] == "raise":
        raise RuntimeError("on purpose")
    if sys.argv[1] == "wait":
        time.sleep(1000)
"""


@ray.remote(num_cpus=0)
class Worker:
    def __init__(self, error: Exception | None = None) -> None:
        if error is not None:
            raise error

    def answer(self) -> int:
        return 7

    def environment(self) -> dict[str, str]:
        return dict(os.environ)

    def hang(self) -> None:
        time.sleep(1000)

    def refuse(self) -> None:
        raise RunError("row 3 is bad")

    def fill(self) -> None:
        raise OSError(28, "No space left on device", "model")

    def crash(self) -> None:
        os._exit(1)


def test_private_session_is_on_loopback_with_token_authentication(session: SessionInfo) -> None:
    assert session.started_here
    assert session.dashboard_url is not None
    assert session.dashboard_url.startswith("http://127.0.0.1:")
    assert session.resources["CPU"] == 2
    environment = deadline_get(Worker.remote().environment.remote(), 180, "environment")
    assert environment["RAY_AUTH_MODE"] == "token"
    assert environment["OMP_NUM_THREADS"] == os.environ.get("OMP_NUM_THREADS", "1")
    assert environment["HF_HUB_OFFLINE"] == "1"


def test_titles_of_processes_are_not_written_over_their_mark(session: SessionInfo) -> None:
    until = time.monotonic() + 120
    titled: dict[str, int] = {}
    while len(titled) < 2 and time.monotonic() < until:
        for child in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                title = " ".join(child.cmdline()).strip()
                titled |= {title: child.pid} if title.endswith("Agent") else {}
        time.sleep(0.2)
    assert titled.keys() == {"ray::DashboardAgent", "ray::RuntimeEnvAgent"}
    for name, pid in titled.items():
        assert not Path(f"/proc/{pid}/environ").read_bytes().startswith(b"\0"), name


def test_a_worker_is_forked_and_has_the_title_that_ray_gives_it(session: SessionInfo) -> None:
    worker = Worker.remote()
    assert deadline_get(worker.answer.remote(), 180, "answer") == 7
    below = psutil.Process().children(recursive=True)
    (server,) = (process for process in below if fork_server.__name__ in _command(process))
    assert "ray::Worker" in [" ".join(_command(process)).strip() for process in server.children()]


def _command(process: psutil.Process) -> list[str]:
    """[] of one that has ended."""
    try:
        return process.cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return []


def test_the_dashboard_refuses_who_has_no_token(session: SessionInfo) -> None:
    from urllib.error import HTTPError
    from urllib.request import urlopen

    with pytest.raises(HTTPError) as caught:
        urlopen(f"{session.dashboard_url}/api/jobs/", timeout=30)
    assert caught.value.code in (401, 403)


def test_a_session_within_a_session_is_the_same_and_leaves_it_open(session: SessionInfo) -> None:
    with ray_session() as inner:
        assert inner.address == session.address
        assert not inner.started_here
    there = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    with ray_session(env=there):
        pass
    with (
        pytest.raises(RunError, match=r"env\.NCCL_DEBUG='INFO', but the session .* has None"),
        ray_session(env={"NCCL_DEBUG": "INFO"}),
    ):
        pass
    assert deadline_get(Worker.remote().answer.remote(), 180, "answer") == 7


def test_deadline_get_keeps_order_and_takes_one_or_several(session: SessionInfo) -> None:
    worker = Worker.remote()
    assert deadline_get(worker.answer.remote(), 180, "answer") == 7
    assert deadline_get([ray.put(i) for i in range(5)], 180, "numbers") == [0, 1, 2, 3, 4]


def test_deadline_names_the_stage_and_who_is_silent(session: SessionInfo) -> None:
    quick, slow = Worker.options(name="scorer-0").remote(), Worker.options(name="scorer-1").remote()
    deadline_get([quick.answer.remote(), slow.answer.remote()], 180, "start")
    with pytest.raises(DeadlineExceeded) as caught:
        deadline_get([quick.answer.remote(), slow.hang.remote()], 1, "scoring")
    message = str(caught.value)
    assert message.startswith("scoring: no answer within 1 s from scorer-1 (1 of 2 answered)")
    assert "scorer-0" not in message
    ray.kill(slow)


def test_the_first_failure_is_raised_as_itself_while_others_hang(session: SessionInfo) -> None:
    slow, bad = Worker.remote(), Worker.remote()
    with pytest.raises(RunError) as caught:
        deadline_get([slow.hang.remote(), bad.refuse.remote()], 600, "update", ["a", "b"])
    assert type(caught.value) is RunError
    assert str(caught.value) == "row 3 is bad"
    ray.kill(slow)


def test_a_dead_actor_is_named(session: SessionInfo) -> None:
    with pytest.raises(RoleFailed, match="^update: learner-1 died: The actor died unexpectedly") as caught:
        deadline_get(Worker.remote().crash.remote(), 180, "update", ["learner-1"])
    assert "\n" not in str(caught.value)


def test_an_error_that_is_none_of_ours_is_told_in_one_line(session: SessionInfo) -> None:
    with pytest.raises(RoleFailed) as caught:
        deadline_get(Worker.remote().fill.remote(), 180, "saving", ["learner-1"])
    assert str(caught.value) == "saving: learner-1 raised OSError: [Errno 28] No space left on device: 'model'"


def test_a_failed_start_says_why_in_one_line(session: SessionInfo) -> None:
    with pytest.raises(RoleFailed) as caught:
        deadline_get(Worker.remote(ValueError("no such model")).answer.remote(), 180, "start", ["generator-0"])
    assert str(caught.value) == "start: generator-0 died: ValueError: no such model"
    with pytest.raises(ModelError) as mistake:
        deadline_get(Worker.remote(ModelError("no such model\nhere")).answer.remote(), 180, "start", ["generator-0"])
    assert str(mistake.value) == "no such model\nhere"


def test_workers_import_nothing_from_the_users_directory(tmp_path: Path) -> None:
    (tmp_path / "rich.py").write_text("raise SystemExit('the wrong one')")
    script = (
        "import ray, sys\n"
        "from mmrlhf_ray.runtime.session import ray_session\n"
        "def where():\n    import rich\n    return rich.__file__\n"
        "with ray_session(num_cpus=1):\n    print(ray.get(ray.remote(where).remote()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("site-packages/rich/__init__.py")


def _driver(tmp_path: Path, ending: str) -> tuple["subprocess.Popen[str]", str, Path]:
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    driver = subprocess.Popen(
        [sys.executable, str(script), ending],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A test run in the background of a shell ignores Ctrl-C, and its children would too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert driver.stdout is not None
    line = driver.stdout.readline().split()
    if len(line) != 2:
        raise AssertionError(f"driver did not start: {driver.communicate()}")
    return driver, line[0], Path(line[1])


@pytest.mark.parametrize(
    ("ending", "signum", "returncode"),
    [
        ("return", None, 0),
        ("raise", None, 1),
        ("wait", signal.SIGINT, -signal.SIGINT),
        ("wait", signal.SIGTERM, 128 + signal.SIGTERM),
        ("wait", signal.SIGKILL, -signal.SIGKILL),
    ],
)
def test_nothing_is_left(tmp_path: Path, ending: str, signum: int | None, returncode: int) -> None:
    driver, mark, directory = _driver(tmp_path, ending)
    if signum is not None:
        assert processes.marked(mark)  # otherwise the check below would prove nothing
        driver.send_signal(signum)
    _, errors = driver.communicate(timeout=240)
    assert driver.returncode == returncode, errors
    if signum == signal.SIGKILL:
        until = time.monotonic() + 120
        while processes.marked(mark) and time.monotonic() < until:
            time.sleep(0.2)
    assert processes.marked(mark) == []
    logs_kept = ending == "raise" or signum == signal.SIGKILL
    assert directory.exists() == logs_kept
    if ending == "raise":
        assert f"logs of this run are kept in {directory}" in errors
    subprocess.run(["rm", "-rf", str(directory)], check=True)


def test_an_address_where_nobody_answers_is_one_clear_error() -> None:
    code = (
        "from mmrlhf_ray.runtime.session import ray_session\n"
        "from mmrlhf_ray.errors import RunError\n"
        "try:\n with ray_session(): pass\nexcept RunError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "RAY_ADDRESS": "127.0.0.1:1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("no Ray cluster answers at RAY_ADDRESS=127.0.0.1:1")
