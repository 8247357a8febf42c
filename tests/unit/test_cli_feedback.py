"""The commands of `mmrlhf feedback`."""

import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from click.testing import Result
from typer.testing import CliRunner

from mmrlhf_ray.cli.feedback import app
from mmrlhf_ray.config import FeedbackConfig, load_config
from mmrlhf_ray.errors import ConfigError
from mmrlhf_ray.feedback.errors import Invalid
from tests.command import Here

MODULE = [sys.executable, "-m", "mmrlhf_ray.cli", "feedback"]


def invoked(*args: object) -> Result:
    """Without what the program does around it: exceptions stay as they are."""
    return CliRunner().invoke(app, [str(arg) for arg in args])


def test_accounts_and_export(here: Here, tmp_path: Path) -> None:
    where = ["--set", f"data_dir={tmp_path}/feedback"]
    added = invoked("annotators", "add", "Zoë", "--role", "reviewer", *where)
    assert added.exit_code == 0, added.output
    assert re.fullmatch(r"[\w-]{43}\n", added.stdout)
    again = here("feedback", "annotators", "add", "Zoë", *where)
    assert (again.returncode, again.err) == (
        2, "error: name: there is an account 'Zoë' already; choose another name\n"
    )  # fmt: skip
    assert isinstance(invoked("annotators", "add", "x", "--role", "king", *where).exception, Invalid)
    listed = invoked("annotators", "list", *where)
    assert "Zoë" in listed.stdout
    assert added.stdout.strip() not in listed.stdout
    assert invoked("annotators", "remove", "Zoë", "--erase", *where).stdout.startswith("Zoë: closed; 0 votes")
    saved = invoked("backup", tmp_path / "backup", *where)
    assert saved.stdout == f"{tmp_path}/backup: 0 items, 0 votes, 0 media, 1 accounts\n"
    assert isinstance(invoked("restore", tmp_path / "backup", *where).exception, ConfigError)
    again = invoked("restore", tmp_path / "backup", "--set", f"data_dir={tmp_path}/restored")
    assert again.stdout == f"{tmp_path}/backup: 0 items, 0 votes, 0 media, 1 accounts restored\n"
    out = tmp_path / "out" / "votes.jsonl"
    assert invoked("export", out, *where).stdout == f"{out}: 0 annotations\n"
    assert isinstance(invoked("export", out, "--since", "today", *where).exception, Invalid)
    assert isinstance(invoked("export", tmp_path / "x.csv", *where).exception, ConfigError)


class Serving:
    """`mmrlhf feedback serve`, what it prints in files."""

    def __init__(self, tmp_path: Path, *args: str) -> None:
        self.out, self.err = tmp_path / "out", tmp_path / "err"
        command = [*MODULE, "serve", "--port", "0", "--set", f"data_dir={tmp_path}/feedback", *args]
        with self.out.open("w") as out, self.err.open("w") as err:
            self.process = subprocess.Popen(command, stdout=out, stderr=err)

    def port(self) -> str:
        until = time.monotonic() + 120
        while "\n" not in (text := self.out.read_text()):
            assert self.process.poll() is None, self.err.read_text()
            assert time.monotonic() < until
            time.sleep(0.05)
        return text.splitlines()[0].rpartition(":")[2]

    def end(self, how: signal.Signals) -> int:
        self.process.send_signal(how)
        return self.process.wait(60)


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Callable[..., Serving]]:
    started: list[Serving] = []

    def start(*args: str) -> Serving:
        started.append(Serving(tmp_path, *args))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.wait()


def wait_for(url: str) -> httpx.Response:
    until = time.monotonic() + 60
    while True:
        try:
            return httpx.get(url, timeout=10)
        except httpx.TransportError:
            assert time.monotonic() < until
            time.sleep(0.05)


def test_serve_prints_a_token_once_and_ends_cleanly(serving: Callable[..., Serving]) -> None:
    for first, how in ((True, signal.SIGTERM), (False, signal.SIGINT)):
        server = serving()
        assert wait_for(f"http://127.0.0.1:{server.port()}/login").status_code == 200
        assert server.end(how) == 0, server.err.read_text()
        lines = server.out.read_text().splitlines()
        assert lines[0].startswith("feedback: http://127.0.0.1:")
        assert ["with this token, which is not shown again" in line for line in lines[1:]] == [True] * first
        assert server.err.read_text() == "", "loopback needs no warning"


def test_other_addresses_are_warned_about(serving: Callable[..., Serving]) -> None:
    server = serving("--host", "0.0.0.0")
    wait_for(f"http://127.0.0.1:{server.port()}/login")
    assert server.end(signal.SIGTERM) == 0
    assert "can be reached from other machines, and without TLS" in server.err.read_text()


def test_a_port_that_is_taken(here: Here, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = here("feedback", "serve", "--port", str(port), "--set", f"data_dir={tmp_path}")
    assert done.returncode == 2
    assert done.err.startswith(f"error: host, port: cannot listen on 127.0.0.1:{port}: Address already in use")


def test_a_database_that_does_not_answer(here: Here) -> None:
    done = here("feedback", "serve", "--port", "0", "--set", "database=postgresql://me:s3cret@127.0.0.1:1/votes")
    assert done.returncode == 2
    assert done.err.startswith("error: database (postgresql")
    assert "s3cret" not in done.err


def test_configuration(tmp_path: Path) -> None:
    file = tmp_path / "feedback.yaml"
    file.write_text("data_dir: /here\naspects:\n  - {name: kind, description: Is nice.}\nlogin: {total: 5}\n")
    config = load_config(file, ["overlap=7"], FeedbackConfig)
    assert (config.aspects[0].name, config.login.total, config.overlap) == ("kind", 5, 7)
    assert config.database_url == "sqlite:////here/feedback.sqlite3"
    assert config.loopback
    assert not config.model_copy(update={"host": "0.0.0.0"}).loopback
    for bad, words in (
        ("overlap=0", "overlap"),
        ("tls_cert=a.pem", "tls_cert and tls_key go together"),
        ("aspects=[{name: a, description: x}, {name: a, description: y}]", "different names"),
        ("overlop=3", "the nearest is overlap"),
    ):
        with pytest.raises(ConfigError, match=words):
            load_config(None, [bad], FeedbackConfig)
    assert "s3cret" not in repr(load_config(None, ["database=postgresql://a:s3cret@b/c"], FeedbackConfig))
