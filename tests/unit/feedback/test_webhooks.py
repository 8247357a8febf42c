"""The webhook: told at least once, signed, also after a failure or the death of the server."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from pydantic import ValidationError

from mmrlhf_ray.config import FeedbackConfig
from mmrlhf_ray.feedback.app import create_app
from mmrlhf_ray.feedback.app.webhooks import signature
from mmrlhf_ray.feedback.collect.accounts import add_annotator
from mmrlhf_ray.feedback.collect.database import Database
from mmrlhf_ray.feedback.collect.outbox import CLAIM_S, claim_due, delivered, failed, tell, waiting_messages
from mmrlhf_ray.feedback.collect.tables import OutMessage
from tests.listening import Quiet, listening
from tests.unit.feedback.test_api import vote
from tests.unit.feedback.world import NOON, World, fill, pair

SECRET = "0123456789abcdef"
WAIT_S = 20


@dataclass
class Receiver:
    """A program that is told; answers the first `refuse` messages with 500."""

    url: str = ""
    refuse: int = 0
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)

    def until(self, count: int) -> list[dict[str, Any]]:
        """The messages, as soon as there are so many."""
        end = time.monotonic() + WAIT_S
        while len(self.got) < count and time.monotonic() < end:
            time.sleep(0.02)
        assert len(self.got) == count
        return [json.loads(body) for _, body in self.got]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    found = Receiver()

    class Handler(Quiet):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            found.got.append(({name.lower(): value for name, value in self.headers.items()}, body))
            self.send_response(500 if len(found.got) <= found.refuse else 204)
            self.end_headers()

    with listening(Handler) as url:
        found.url = f"{url}/told"
        yield found


def configured(tmp_path: Path, url: str) -> FeedbackConfig:
    webhook = {"url": url, "secret": SECRET}
    settings = {"data_dir": str(tmp_path / "told"), "overlap": 1, "gold_share": 0.0, "webhook": webhook}
    return FeedbackConfig.model_validate(settings)


def opened(config: FeedbackConfig, http: TestClient) -> World:
    database = http.app.state.feedback.database  # type: ignore[attr-defined]
    world = World(http.app, config, database, http)  # type: ignore[arg-type]
    for role in ("annotator", "reviewer"):
        with database.write() as session:
            world.tokens[role] = add_annotator(session, role, role, "test", NOON)[1]
    return world


def test_what_happens_to_an_item_is_told_and_signed(tmp_path: Path, receiver: Receiver) -> None:
    config = configured(tmp_path, receiver.url)
    receiver.refuse = 1
    with TestClient(create_app(config), base_url="http://127.0.0.1") as http:
        world = opened(config, http)
        fill(world.database, config, pair("问", item_id="a", round=3))
        sent = vote(world, {"choice": "left"})
        first, again = receiver.until(2)
        assert first == again
        assert (first["event"], first["item_id"], first["round"]) == ("item.done", "a", 3)
        ids = {headers["x-mmrlhf-delivery"] for headers, _ in receiver.got}
        assert len(ids) == 1
        for headers, body in receiver.got:
            assert headers["x-mmrlhf-signature"] == signature(SECRET, body)
            assert headers["x-mmrlhf-event"] == "item.done"
        assert world.call("annotator", "POST", f"/api/votes/{sent['vote_id']}/undo").status_code == 200
        assert receiver.until(3)[-1]["event"] == "item.reopened"
        body = {"item_id": "a", "answer": {"choice": "left"}}
        assert world.call("reviewer", "POST", "/api/reviews", json=body).status_code == 201
        assert receiver.until(4)[-1]["event"] == "item.reviewed"


def test_what_was_not_delivered_is_after_the_next_start(tmp_path: Path, receiver: Receiver) -> None:
    nobody = configured(tmp_path, "http://127.0.0.1:1/told")
    with TestClient(create_app(nobody), base_url="http://127.0.0.1") as http:
        world = opened(nobody, http)
        fill(world.database, nobody, pair(item_id="a"))
        vote(world, {"choice": "left"})
    config = configured(tmp_path, receiver.url)
    with TestClient(create_app(config), base_url="http://127.0.0.1"):
        assert [message["item_id"] for message in receiver.until(1)] == ["a"]


def test_without_a_webhook_nothing_is_stored(world: World) -> None:
    fill(world.database, world.config, pair(overlap=1))
    vote(world, {"choice": "left"})
    with world.database.read() as session:
        assert waiting_messages(session) == 0


def test_a_message_is_claimed_tried_again_with_pauses_and_gone_when_it_arrived(database: Database) -> None:
    with database.write() as session:
        tell(session, "item.done", NOON, item_id="a")
    with database.write() as session:
        (due,) = claim_due(session, NOON)
        assert claim_due(session, NOON) == [], "another server does not send it meanwhile"
        assert claim_due(session, NOON + timedelta(seconds=CLAIM_S / 2)) == []
    now = NOON + timedelta(seconds=CLAIM_S)
    with database.write() as session:
        (again,) = claim_due(session, now)  # as if the first server had died
        assert (again.id, again.attempts) == (due.id, 2)
    pauses = []
    for _ in range(14):
        with database.write() as session:
            failed(session, again, now)
            pause = session.get_one(OutMessage, due.id).due - now
            assert claim_due(session, now + pause - timedelta(seconds=1)) == []
            pauses.append(pause.total_seconds())
            now += pause
            (again,) = claim_due(session, now)
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (2, 3600)
    with database.write() as session:
        delivered(session, due.id)
        assert waiting_messages(session) == 0


def test_a_message_is_there_only_if_the_change_is(database: Database) -> None:
    def change() -> None:
        with database.write() as session:
            tell(session, "item.done", NOON, item_id="a")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        change()
    with database.read() as session:
        assert waiting_messages(session) == 0


@pytest.mark.parametrize("webhook", [{"url": "ftp://x", "secret": SECRET}, {"url": "https://x", "secret": "short"}])
def test_webhooks_that_make_no_sense_are_refused(webhook: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="webhook"):
        FeedbackConfig.model_validate({"webhook": webhook})
