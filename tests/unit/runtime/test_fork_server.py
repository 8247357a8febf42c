"""A process that the server forks is as one that Python starts, and ends with whoever asked for it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psutil
import pytest

from mmrlhf_ray.runtime.fork_server import DOOR, forked_python, start

PATIENCE_S = 60.0
Done = subprocess.CompletedProcess[str]
TELLS = """
import json, os, sys
print(json.dumps({"argv": sys.argv, "name": __name__, "first": sys.path[0], "env": dict(os.environ), "cwd": os.getcwd(),
                  "pid": os.getpid(), "imported": sorted(sys.modules.keys() & {"torch", "ray"}),
                  "threads": len(os.listdir("/proc/self/task")), "paths": sys.path}))
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    door = tmp_path_factory.mktemp("server") / "door"
    with start(door) as process:
        yield door
        process.kill()


@pytest.fixture
def python(server: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv(DOOR, str(server))
    return forked_python()


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "script.py"
    path.write_text(TELLS)
    return path


def run(command: list[str], env: Mapping[str, str] | None = None, files: Sequence[int] = ()) -> Done:
    env = os.environ | {"OMP_NUM_THREADS": "1"} | (env or {})
    return subprocess.run(command, env=env, pass_fds=files, capture_output=True, text=True, timeout=PATIENCE_S, cwd="/")


def test_it_is_as_one_that_python_starts(python: list[str], script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")
    own = {"SOME": "thing", "PYTHONPATH": str(script.parent)}
    plain, forked = (
        json.loads(run([*command, str(script), "a", "b c"], own).stdout) for command in ([sys.executable], python)
    )
    assert (plain.pop("imported"), forked.pop("imported")) == ([], ["torch"])
    assert plain.pop("pid") != forked.pop("pid")
    assert set(plain.pop("paths")) <= set(forked.pop("paths"))
    assert forked == plain


def test_code_is_run_too(python: list[str]) -> None:
    done = run([*python, "-c", "import sys; print(__name__, sys.argv); sys.exit(3)", "x"])
    assert (done.stdout, done.returncode) == ("__main__ ['-c', 'x']\n", 3)


def test_what_all_import_starts_no_thread_and_no_ray(python: list[str], script: Path) -> None:
    """Neither would outlive the fork: a thread is not there, and Ray has read another process's environment."""
    told = json.loads(run([*python, str(script)]).stdout)
    assert (told["threads"], told["imported"]) == (1, ["torch"])


def test_it_computes_as_its_own_environment_says(python: list[str]) -> None:
    code = "import torch, numpy as np; print(torch.get_num_threads(), np.random.rand())"
    told = [run([*python, "-c", code], {"OMP_NUM_THREADS": threads}).stdout.split() for threads in ("2", "1", "2,1")]
    assert [threads for threads, _ in told] == ["2", "1", "2"]
    assert len({chance for _, chance in told}) == 3


def test_open_files_are_passed_under_their_numbers(python: list[str], tmp_path: Path) -> None:
    """Also where one has the number that another has in the server."""
    files = []
    for name in "ab":
        (tmp_path / name).write_text(f"of {name}")
        files.append(os.open(tmp_path / name, os.O_RDONLY))
    done = run([*python, "-c", f"import os; print([os.read(file, 9).decode() for file in {files}])"], files=files)
    for file in files:
        os.close(file)
    assert done.stdout == "['of a', 'of b']\n"


def waiting(python: list[str]) -> tuple["subprocess.Popen[str]", psutil.Process]:
    asker = subprocess.Popen(
        [*python, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(600)"],
        stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert asker.stdout is not None
    return asker, psutil.Process(int(asker.stdout.readline()))


def test_whoever_asked_ends_with_it_and_it_with_them(python: list[str]) -> None:
    asker, process = waiting(python)
    with asker:
        process.kill()
        assert asker.wait(PATIENCE_S) == 128 + signal.SIGKILL
    asker, process = waiting(python)
    with asker:
        asker.kill()
        process.wait(PATIENCE_S)
    asker, process = waiting(python)
    with asker:
        assert "time.sleep(600)" in " ".join(process.cmdline())
        asker.kill()


def test_without_a_server_it_is_python_itself(tmp_path: Path, script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DOOR, raising=False)
    assert forked_python() == [sys.executable]
    monkeypatch.setenv(DOOR, str(tmp_path / "door"))
    done = run([*forked_python(), str(script)])
    assert json.loads(done.stdout)["imported"] == []
    assert f"no fork server at {tmp_path}/door" in done.stderr


def test_it_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    code = f"""
import time
from pathlib import Path
from mmrlhf_ray.runtime.fork_server import start
print(start(Path({str(tmp_path / "door")!r}), ["json"]).pid, flush=True)
time.sleep(600)
"""
    driver = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    with driver:
        assert driver.stdout is not None
        server = psutil.Process(int(driver.stdout.readline()))
        driver.kill()
        until = time.monotonic() + PATIENCE_S
        while server.is_running() and server.status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < until
            time.sleep(0.1)


def test_one_that_ends_while_it_asks_stops_nobody(server: Path, python: list[str]) -> None:
    with socket.socket(socket.AF_UNIX) as asker:
        asker.connect(str(server))
    assert run([*python, "-c", "print('there')"]).stdout == "there\n"
