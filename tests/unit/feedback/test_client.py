"""The client of a deployed model against the real app: nothing lost, nothing twice, nobody held up."""

import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest
import uvicorn
from sqlalchemy import select

from mmrlhf_ray.config import FeedbackConfig
from mmrlhf_ray.feedback.app.factory import create_app
from mmrlhf_ray.feedback.client import FeedbackClient
from mmrlhf_ray.feedback.collect.accounts import add_annotator
from mmrlhf_ray.feedback.collect.database import open_database
from mmrlhf_ray.feedback.collect.tables import Event, LoggedResponse

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
