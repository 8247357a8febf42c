"""The webhook of a server that is killed while it delivers: told again after the next start, under the same id."""

import json
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from mmrlhf_ray.feedback.app.webhooks import signature
from tests.e2e.feedback_support import first_token, running
from tests.listening import Quiet, listening

pytestmark = pytest.mark.e2e

SECRET = "0123456789abcdef"
WAIT_S = 60.0


@dataclass
class Receiver:
    """A program that is told. It answers nothing before `answers` is set, and drops what it knows by its id."""

    url: str = ""
    answers: threading.Event = field(default_factory=threading.Event)
    got: list[tuple[str, bytes]] = field(default_factory=list)
    """(X-Mmrlhf-Delivery, body) of every attempt."""

    @property
    def events(self) -> list[str]:
        """Items that were told, each once."""
        return [json.loads(body)["item_id"] for body in dict(self.got).values()]

    def until(self, attempts: int) -> None:
        end = time.monotonic() + WAIT_S
        while len(self.got) < attempts and time.monotonic() < end:
            time.sleep(0.05)
        assert len(self.got) >= attempts, f"{len(self.got)} attempts within {WAIT_S} s"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    found = Receiver()

    class Handler(Quiet):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            assert self.headers["x-mmrlhf-signature"] == signature(SECRET, body)
            found.got.append((self.headers["x-mmrlhf-delivery"], body))
            found.answers.wait(WAIT_S)
            try:
                self.send_response(204)
                self.end_headers()
            except (BrokenPipeError, ConnectionResetError):  # whoever sent it was killed
                return

    with listening(Handler) as url:
        found.url = f"{url}/told"
        yield found
        found.answers.set()


def waiting(database: Path) -> int:
    with sqlite3.connect(database) as connection:
        return int(connection.execute("SELECT count(*) FROM out_message").fetchone()[0])


def test_a_kill_between_vote_and_answer_is_told_again(receiver: Receiver, tmp_path: Path) -> None:
    webhook = json.dumps({"url": receiver.url, "secret": SECRET})
    settings = [f"data_dir={tmp_path / 'data'}", "overlap=1", f"webhook={webhook}"]
    database = tmp_path / "data" / "feedback.sqlite3"
    with running(settings, tmp_path / "server.log") as server:
        headers = {"Authorization": f"Bearer {first_token(server)}"}
        with httpx.Client(base_url=server.url, headers=headers, timeout=60) as http:
            row = {"prompt": "?", "question": "pair", "responses": ["a", "b"], "item_id": "told"}
            assert http.post("/api/items", json=[row]).status_code == 201
            assert http.post("/api/lease").status_code == 200
            vote = {"vote_id": str(uuid4()), "item_id": "told", "answer": {"choice": "left"}}
            assert http.post("/api/votes", json=vote).status_code == 201
        receiver.until(1)
        assert server.stop(signal.SIGKILL) == -signal.SIGKILL
        assert waiting(database) == 1, "a message goes when it was answered, not when it was sent"
        with sqlite3.connect(database) as connection:
            # As if the minute had passed for which the killed server's claim holds.
            connection.execute("UPDATE out_message SET due = '2001-01-01 00:00:00.000000'")
        receiver.answers.set()
        server.start()
        receiver.until(2)
        end = time.monotonic() + WAIT_S
        while waiting(database) and time.monotonic() < end:
            time.sleep(0.05)
        assert waiting(database) == 0
    (first, body), (again, same) = receiver.got
    assert (first, json.loads(body)) == (again, json.loads(same))
    assert receiver.events == ["told"]
