"""A reward service, asked over real HTTP, that fails in every way."""

import random
import zlib

import pytest

from mmrlhf_ray.config import RemoteReward
from mmrlhf_ray.errors import ConfigError
from mmrlhf_ray.rewards.remote import RemoteScores
from tests.unit.rewards.servers import HANG, Answer, serve
from tests.unit.rewards.support import make_batch


def worth(text):
    return zlib.crc32(text.encode()) / 2**32


def scored(request):
    return Answer(body={"scores": [worth(text) for text in request.body["completions"]]})


def remote(url, **keys):
    return RemoteScores(RemoteReward(kind="remote", name="far", url=url, **{"backoff_s": 0.01} | keys))


def in_turn(*answers):
    """One after the other, then scores."""
    left = list(answers)
    return lambda request: left.pop(0) if left else scored(request)


def test_batches_and_their_shape():
    with serve(scored) as server:
        batch = make_batch(["a", "b", "c", "d", "é"], answer=[1, None, "x", [2], {"k": 3}])
        scores = remote(server.url + "/score", batch_size=2, concurrency=1).score(batch)
    assert scores.values == tuple(worth(text) for text in batch.completions)
    assert scores.problems == (None,) * 5
    assert [r.path for r in server.requests] == ["/score"] * 3
    first = server.requests[0].body
    assert first.keys() == {"prompts", "completions", "columns"}
    assert first["prompts"] == ["<image> how many ?"] * 2
    assert first["completions"] == ["a", "b"]
    assert first["columns"]["answer"] == [1, None]
    assert first["columns"]["prompt_id"] == ["p0", "p1"]
    assert "Authorization" not in server.requests[0].headers


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_errors_and_hangs_cost_time_but_no_score_is_made_up(seed):
    rng, faults = random.Random(seed), {"errors": 0, "hangs": 0}

    def flaky(request):
        draw = rng.random()
        if draw < 0.10:
            faults["errors"] += 1
            return Answer(status=500)
        if draw < 0.15:
            faults["hangs"] += 1
            return HANG
        return scored(request)

    batch = make_batch([f"response {i}" for i in range(400)])
    with serve(flaky) as server:
        far = remote(server.url, batch_size=4, concurrency=8, attempts=4, timeout_s=1.5, deadline_s=60)
        scores = far.score(batch)
    assert faults["errors"] > 3
    assert faults["hangs"] > 1
    there = [(text, value) for text, value in zip(batch.completions, scores.values) if value is not None]
    assert len(there) >= 300
    assert all(value == worth(text) for text, value in there)
    assert all((value is None) == (problem is not None) for value, problem in zip(scores.values, scores.problems))


def test_what_stays_missing_says_so_batch_by_batch():
    def answer(request):
        return Answer(status=503) if "c" in request.body["completions"] else scored(request)

    with serve(answer) as server:
        scores = remote(server.url, batch_size=2, attempts=3).score(make_batch(list("abcde")))
    assert [v is None for v in scores.values] == [False, False, True, True, False]
    assert scores.problems[2] == scores.problems[3] == "answered HTTP 503, after 3 attempts"
    assert sum("c" in r.body["completions"] for r in server.requests) == 3


@pytest.mark.parametrize(
    "fault",
    [
        Answer(status=500),
        Answer(status=408),
        Answer(status=429, headers={"Retry-After": "0"}),
        Answer(body=b"<html>"),
        Answer(body={"scores": [1.0]}, trickle=True),
        HANG,
    ],
    ids=["500", "408", "429", "no JSON", "never ends", "hangs"],
)
def test_passing_faults_are_tried_again(fault):
    with serve(in_turn(fault, fault)) as server:
        scores = remote(server.url, timeout_s=1).score(make_batch(["a"]))
    assert scores.values == (worth("a"),)
    assert len(server.requests) >= 3


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (Answer(status=401, body={"detail": "who are you?"}), 'answered HTTP 401: {"detail": "who are you?"}'),
        (Answer(status=302, body=b"", headers={"Location": "/elsewhere"}), "answered HTTP 302"),
        (Answer(status=404, body=b""), "answered HTTP 404"),
        (Answer(body={"scores": [1.0]}), "answered 1 scores for 2 responses"),
        (Answer(body={"rewards": [1.0, 2.0]}), 'answered without a list "scores"'),
        (Answer(body=[1.0, 2.0]), 'answered without a list "scores"'),
    ],
    ids=["401", "302", "404", "length", "key", "no object"],
)
def test_lasting_faults_are_not_tried_again(answer, problem):
    with serve(lambda request: answer) as server:
        scores = remote(server.url).score(make_batch(["a", "b"]))
    assert scores.values == (None, None)
    assert scores.problems == (problem, problem)
    assert len(server.requests) == 1


def test_only_numbers_count():
    body = b'{"scores": [1, null, "2", true, NaN, 1e999, 0.5]}'
    with serve(lambda request: Answer(body=body)) as server:
        scores = remote(server.url).score(make_batch(list("abcdefg")))
    assert scores.values == (1.0, None, None, None, None, None, 0.5)
    assert scores.problems[1] is None  # not applicable
    for row, shown in ((2, "'2'"), (3, "True"), (4, "nan"), (5, "inf")):
        assert scores.problems[row] == f"answered {shown}, which is not a finite number"


def test_the_deadline_holds_for_everything_together():
    with serve(lambda request: HANG) as server:
        far = remote(server.url, batch_size=1, concurrency=2, timeout_s=1000, deadline_s=1)
        scores = far.score(make_batch(list("abcd")))
    assert scores.values == (None,) * 4
    assert all("deadline_s=1" in problem for problem in scores.problems)
    assert "before it could be asked" in scores.problems[3]
    assert len(server.requests) == 2


def test_retry_after_is_heeded():
    for value in ("1000", "Fri, 31 Dec 2100 23:59:59 GMT"):
        with serve(lambda request, value=value: Answer(status=429, headers={"Retry-After": value})) as server:
            scores = remote(server.url, deadline_s=10).score(make_batch(["a"]))
        assert scores.problems == ("answered HTTP 429; deadline_s=10 leaves no time to try again",)
        assert len(server.requests) == 1


def test_nobody_listens():
    with serve(scored) as server:
        url = server.url
    scores = remote(url, attempts=2).score(make_batch(["a"]))
    assert scores.problems[0].startswith("could not be asked (ConnectError")
    assert scores.problems[0].endswith("after 2 attempts")


def test_the_token_is_sent_and_asked_for(monkeypatch):
    def guarded(request):
        return scored(request) if request.headers.get("Authorization") == "Bearer s3cret" else Answer(status=401)

    monkeypatch.setenv("FAR_TOKEN", "s3cret\n")
    with serve(guarded) as server:
        assert remote(server.url, token_env="FAR_TOKEN").score(make_batch(["a"])).values == (worth("a"),)
        refused = remote(server.url).score(make_batch(["a"]))
        assert refused.values == (None,)
        assert refused.problems[0].startswith("answered HTTP 401")
    monkeypatch.setenv("FAR_TOKEN", "s3\ncret")
    with pytest.raises(ConfigError, match="characters that no header may have") as error:
        remote("http://127.0.0.1:1", token_env="FAR_TOKEN").start()
    assert "s3" not in str(error.value)
    monkeypatch.delenv("FAR_TOKEN")
    with pytest.raises(ConfigError, match="far: token_env=FAR_TOKEN, but that environment variable is not set"):
        remote("http://127.0.0.1:1", token_env="FAR_TOKEN").start()
