"""The client of a deployed model against the real app: nothing lost, nothing twice, nobody held up."""

import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest
import uvicorn
from sqlalchemy import select

from mmrlhf_ray.config import FeedbackConfig
from mmrlhf_ray.demo.digits import digit_png
from mmrlhf_ray.feedback.app.factory import create_app
from mmrlhf_ray.feedback.client import FeedbackClient, connect, described, until_answered
from mmrlhf_ray.feedback.collect.accounts import add_annotator
from mmrlhf_ray.feedback.collect.database import open_database
from mmrlhf_ray.feedback.collect.tables import Event, LoggedResponse
from tests.listening import Quiet, listening

PROMPT = {"prompt": "Which animal?", "prompt_id": "p1"}


@pytest.fixture
def config(tmp_path):
    return FeedbackConfig(data_dir=str(tmp_path))


@pytest.fixture
def token(config):
    database = open_database(config)
    with database.write() as session:
        _, token = add_annotator(session, "app", "client", "test", datetime.now(UTC))
    database.close()
    return token


@contextmanager
def serving(config, port=0):
    """The app on a port of this machine; yields its URL."""
    server = uvicorn.Server(uvicorn.Config(create_app(config), host="127.0.0.1", port=port, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def stored(config):
    database = open_database(config)
    with database.read() as session:
        responses = {r.id: r.text for r in session.scalars(select(LoggedResponse))}
        events = sorted((e.response_id, e.kind, tuple(e.value.items())) for e in session.scalars(select(Event)))
    database.close()
    return responses, events


def test_reports_arrive(config, token):
    with serving(config) as url, FeedbackClient(url, token) as client:
        one = client.response("A dog.", PROMPT, source="v1")
        two = client.response("A cow.", PROMPT)
        client.event(one, "copy")
        client.event(one, "edit", text="A cat.")
        client.event(two, "dwell", seconds=12.5)
        assert client.flush(30)
        assert (client.counts.sent, client.counts.waiting, client.counts.refused) == (5, 0, 0)
    responses, events = stored(config)
    assert responses == {one: "A dog.", two: "A cow."}
    expected = [(one, "copy", ()), (one, "edit", (("text", "A cat."),)), (two, "dwell", (("seconds", 12.5),))]
    assert events == sorted(expected)


def test_media_come_before_the_prompts_that_show_them(config, token):
    with serving(config) as url, FeedbackClient(url, token) as client:
        shown = client.media(digit_png(3), "image")
        one = client.response("A three.", {"prompt": "<image> Which digit?", "media_ids": [shown]})
        assert client.flush(30)
        assert (client.counts.sent, client.counts.refused) == (2, 0)
    assert stored(config)[0] == {one: "A three."}


def test_reports_wait_for_a_server_that_comes_back(config, token):
    with serving(config) as url:
        port = int(url.rpartition(":")[2])
    client = FeedbackClient(url, token)
    one = client.response("A dog.", PROMPT)
    client.event(one, "thumbs_up")
    assert not client.flush(0.3)
    with serving(config, port):
        assert client.flush(60)
        client.close()
    assert stored(config) == ({one: "A dog."}, [(one, "thumbs_up", ())])


def test_what_is_refused_does_not_hold_up_the_rest(config, token, caplog):
    with serving(config) as url, FeedbackClient(url, token) as client:
        client.event("nobody", "copy")
        one = client.response("A dog.", PROMPT)
        client.event(one, "wink")
        client.event(one, "click")
        assert client.flush(30)
        assert (client.counts.sent, client.counts.refused) == (2, 2)
    assert stored(config)[1] == [(one, "click", ())]
    assert "no such response was reported" in caplog.text


def test_a_wrong_token_is_refused(config, token):
    with serving(config) as url, FeedbackClient(url, "wrong") as client:
        client.response("A dog.", PROMPT)
        assert client.flush(30)
        assert client.counts.refused == 1
    assert stored(config) == ({}, [])


def test_a_full_queue_drops_and_never_waits(config, token):
    with serving(config) as url:
        pass
    client = FeedbackClient(url, token, capacity=10)
    for _ in range(25):
        client.response("A dog.", PROMPT)
    assert (client.counts.waiting, client.counts.dropped) == (10, 15)
    client.close(timeout_s=0.1)
    assert client.counts.waiting == 10
    with pytest.raises(RuntimeError, match="closed"):
        client.event("x", "copy")


@contextmanager
def answering(*statuses):
    """A server that answers with these, one after the other; yields its URL and the tokens that came."""
    came = []

    class Handler(Quiet):
        def do_GET(self):
            self.send_response(statuses[len(came)])
            came.append(self.headers["authorization"])
            self.send_header("content-length", "0")
            self.end_headers()

    with listening(Handler) as url:
        yield url, came


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_request_is_sent_until_the_server_answers_it(status):
    """One kind of retry for the loop, for annotators and for reports; a refusal is an answer."""
    waits = []

    def wait(seconds, trouble):
        waits.append(seconds)
        assert described(trouble).startswith(f"status {status}")
        return True

    with answering(status, status, status, 422) as (url, came), connect(url, "secret", 10.0) as http:
        answer = until_answered(lambda: http.get("/"), wait, longest_wait_s=0.15)
    assert answer.status_code == 422
    assert came == ["Bearer secret"] * 4
    shortest = (0.05, 0.075, 0.075)  # 0.1, then 0.2 cut to 0.15, each times 0.5 to 1.5
    assert all(low <= seconds <= 3 * low for low, seconds in zip(shortest, waits, strict=True))


def test_a_request_can_be_given_up():
    waits = []

    def wait(seconds, trouble):
        waits.append(described(trouble))
        return len(waits) < 3

    with answering(503, 503, 503) as (url, came), connect(url, "secret", 10.0) as http:
        assert until_answered(lambda: http.get("/"), wait) is None
    assert len(came) == 3
    with connect(url, "secret", 10.0) as http:  # and where nobody listens
        assert until_answered(lambda: http.get("/"), wait) is None
    assert waits[-1].startswith("ConnectError: ")
