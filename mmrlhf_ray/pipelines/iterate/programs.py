"""Programs that a loop runs alongside itself: the feedback app, and programmatic annotators. None outlives it."""

import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from mmrlhf_ray.config import FeedbackConfig
from mmrlhf_ray.config.iterate import AnnotatorsSection, FeedbackSection
from mmrlhf_ray.errors import ConfigError, RunError
from mmrlhf_ray.feedback.collect.accounts import add_annotator, new_token
from mmrlhf_ray.feedback.collect.database import open_database
from mmrlhf_ray.feedback.collect.tables import COMMAND
from mmrlhf_ray.feedback.errors import Unknown
from mmrlhf_ray.pipelines.iterate.client import LoopClient
from mmrlhf_ray.runtime import processes

FEEDBACK_DIR = "feedback"
ACCOUNT = "mmrlhf iterate"
_SAID = "feedback: "
_START_S = 60.0
_POLL_S = 0.1
_GRACE_S = 15.0


@dataclass(frozen=True)
class Program:
    """A process of ours."""

    name: str
    process: "subprocess.Popen[str]"
    log: Path

    def check(self) -> None:
        """Raises RunError where it has ended."""
        status = self.process.poll()
        if status is not None:
            said = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            last = said[-1] if said else "it said nothing"
            raise RunError(f"{self.name} has ended with status {status}: {last}; see {self.log}")


@contextmanager
def _programs() -> Iterator["Starter"]:
    """Starts programs that end with the block, and with our process however that ends."""
    starter = Starter(secrets.token_hex(16), [])
    watchdog = processes.start_watchdog(starter.mark, 0.0)
    try:
        yield starter
    finally:
        for process in starter.started:
            process.terminate()
        processes.end_marked(starter.mark, _GRACE_S)
        for process in starter.started:
            process.wait()
        watchdog.kill()
        watchdog.wait()


@dataclass(frozen=True)
class Starter:
    """Starts programs that can be told by a mark in their environment."""

    mark: str
    started: "list[subprocess.Popen[str]]"

    def start(self, name: str, module: str, *arguments: str, log: Path, told: str = "") -> Program:
        """`python -m module arguments`, with `told` on its standard input."""
        with log.open("a", encoding="utf-8") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=os.environ | {processes.MARK: self.mark},
                text=True,
                start_new_session=True,  # Ctrl-C is for us alone, who then end it
            )
        self.started.append(process)
        assert process.stdin is not None
        try:
            process.stdin.write(told)
            process.stdin.close()
        except BrokenPipeError:
            process.wait()  # check() says why it has ended
        return Program(name, process, log)


@contextmanager
def feedback_client(cfg: FeedbackSection, run_dir: Path) -> Iterator[LoopClient]:
    """The server that `cfg` names, or one of our own for the time of the block. Raises ConfigError and RunError."""
    if cfg.url is not None:
        token = os.environ.get(cfg.token_env)
        if not token:
            raise ConfigError(f"feedback.token_env: {cfg.token_env} is not set; export an administrator's token in it")
        with _connected(cfg.url, token) as client:
            yield client
        return
    app = app_config(cfg, run_dir)
    with _programs() as starter, _connected(*_serve(app, run_dir / FEEDBACK_DIR, starter)) as client:
        yield client


@contextmanager
def _connected(url: str, token: str) -> Iterator[LoopClient]:
    client = LoopClient.connect(url, token)
    try:
        yield client
    finally:
        client.close()


def app_config(cfg: FeedbackSection, run_dir: Path) -> FeedbackConfig:
    """The configuration of our own server."""
    return FeedbackConfig.model_validate({**(cfg.serve or {}), "data_dir": str(run_dir.resolve() / FEEDBACK_DIR)})


def _serve(app: FeedbackConfig, directory: Path, starter: Starter) -> tuple[str, str]:
    """(address, administrator's token) of a server that answers."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    token = _own_token(app)
    file, log = directory / "serve.yaml", directory / "server.log"
    file.write_text(yaml.safe_dump(app.model_dump(mode="json", exclude={"database"}), sort_keys=False))
    log.touch()
    before = log.stat().st_size
    program = starter.start("the feedback app", "mmrlhf_ray.cli", "feedback", "serve", "--config", str(file), log=log)
    until = time.monotonic() + _START_S
    while time.monotonic() < until:
        program.check()
        for line in log.read_text(encoding="utf-8")[before:].splitlines():
            if line.startswith(f"{_SAID}http"):
                url = line.removeprefix(_SAID)
                make = f"mmrlhf feedback annotators add NAME --config {file}"
                print(f"feedback app: {url}; `{make}` makes an account", file=sys.stderr, flush=True)
                return url, token
        time.sleep(_POLL_S)
    raise RunError(f"the feedback app did not start within {_START_S:g} s; see {log}")


def _own_token(app: FeedbackConfig) -> str:
    """A fresh token of the loop's own account."""
    database, now = open_database(app), datetime.now(UTC)
    try:
        with database.write() as session:
            try:
                return new_token(session, ACCOUNT, COMMAND, now)
            except Unknown:
                return add_annotator(session, ACCOUNT, "admin", COMMAND, now)[1]
    finally:
        database.close()


@contextmanager
def annotators(
    cfg: AnnotatorsSection | None, client: LoopClient, seed: int, log_dir: Path
) -> Iterator[tuple[Program, ...]]:
    """The programs that answer in people's place, for the time of the block; none where people do.

    Each gets one line of JSON on its standard input: {"url", "token", "name", "number", "seed", "options"}. It takes
    items and votes until it is ended.
    """
    if cfg is None:
        yield ()
        return
    log_dir.mkdir(parents=True, exist_ok=True)
    with _programs() as starter:
        running = []
        for number in range(cfg.count):
            name = f"simulated-{number + 1}"
            told: dict[str, Any] = {
                "url": client.url,
                "token": client.annotator_token(name),
                "name": name,
                "number": number,
                "seed": seed,
                "options": cfg.options,
            }
            log = log_dir / f"{name}.log"
            running.append(starter.start(name, cfg.module, log=log, told=json.dumps(told) + "\n"))
        yield tuple(running)
