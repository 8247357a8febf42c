"""A judge behind an OpenAI-compatible endpoint, asked over real HTTP."""

import base64
import json
from dataclasses import replace

import pytest

from mmrlhf_ray.config import JudgeReward
from mmrlhf_ray.data.media import media_row
from mmrlhf_ray.rewards.judge import JudgeScores, fill
from mmrlhf_ray.rewards.judge_answers import read_grade
from tests.unit.rewards.servers import HANG, Answer, serve
from tests.unit.rewards.support import make_batch
from tests.unit.tiny import noise, picture

PROMPT = "Question: {prompt}\nFacts: {columns}\nAnswer: {response}\nGrade it {0-10} on the last line."


def judge(url, **keys):
    defaults = {"kind": "judge", "name": "judge", "model": "grader", "prompt": PROMPT, "backoff_s": 0.01}
    return JudgeScores(JudgeReward(base_url=url + "/v1/", **defaults | keys))


def says(text, finish_reason="stop"):
    message = {"role": "assistant", "content": text}
    return Answer(body={"object": "chat.completion", "choices": [{"message": message, "finish_reason": finish_reason}]})


def graded(request):
    """As many points as the response has words."""
    response = request.body["messages"][0]["content"].rpartition("Answer: ")[2].splitlines()[0]
    return says(f"Good work.\n\nGrade: {len(response.split())}\n")


def test_each_response_is_graded_once(monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "k")
    batch = make_batch(["one", "one two three", ""], facts=["x", None, "z"])
    with serve(graded) as server:
        scores = judge(server.url, token_env="JUDGE_KEY", max_tokens=99, concurrency=1).score(batch)
    assert scores.values == (0.1, 0.3, 0.0)
    assert scores.problems == (None,) * 3
    request = server.requests[0]
    assert request.path == "/v1/chat/completions"
    assert request.headers["Authorization"] == "Bearer k"
    question = request.body.pop("messages")
    assert request.body == {"model": "grader", "temperature": 0, "max_tokens": 99}
    assert [m["role"] for m in question] == ["user"]
    lines = question[0]["content"].splitlines()
    assert lines[0] == "Question: <image> how many ?"
    assert json.loads(lines[1].removeprefix("Facts: "))["facts"] == "x"
    assert lines[2:] == ["Answer: one", "Grade it {0-10} on the last line."]


def test_a_judge_is_shown_the_media_that_it_can_take():
    clips = [media_row("image", picture(1)), media_row("audio", noise(1, 0.1)), media_row("image", picture(2))]
    batch = replace(make_batch(["one", "two"]), media=(tuple(clips), ()))
    with serve(graded_parts) as server:
        scores = judge(server.url, media=["image"], concurrency=1).score(batch)
        assert judge(server.url, media=["audio"], concurrency=1).score(batch.select([0])).values == (0.1,)
        assert judge(server.url, concurrency=1).score(batch.select([0])).values == (0.0,)
    assert scores.values == (0.2, 0.0)
    first, alone, heard, text = (request.body["messages"][0]["content"] for request in server.requests)
    assert [part["type"] for part in first] == ["image_url", "image_url", "text"]
    address = first[0]["image_url"]["url"]
    assert base64.b64decode(address.removeprefix("data:image/png;base64,")) == clips[0]["data"]
    assert heard[0]["input_audio"]["format"] == "wav"
    assert isinstance(alone, str)
    assert isinstance(text, str)


def graded_parts(request):
    """As many points as there are clips."""
    content = request.body["messages"][0]["content"]
    return says(f"{0 if isinstance(content, str) else len(content) - 1}")


def test_without_media_a_judge_that_wants_them_gives_no_grade():
    with serve(graded_parts) as server:
        scores = judge(server.url, media=["image"]).score(make_batch(["a"]))
    assert scores.values == (None,)
    assert "there are no media here to show it" in scores.problems[0]
    assert server.requests == []


def test_scale():
    with serve(lambda request: says("3")) as server:
        assert judge(server.url, lowest=1, highest=5).score(make_batch(["a"])).values == (0.5,)


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (says("Grade: 11"), "gave the grade 11, expected 0 … 10"),
        (says("Grade: -1"), "gave the grade -1, expected 0 … 10"),
        (says("7 of the claims hold.\nI cannot grade this."), "gave no grade on its last line: 'I cannot grade this.'"),
        (says(""), "gave no grade on its last line: ''"),
        (says(None), "gave no grade on its last line: 'None'"),
        (says("Grade: 1", "length"), "was cut off at max_tokens=256"),
        (Answer(body={"choices": []}), "answered without choices[0].message.content"),
        (Answer(body={"error": "overloaded"}), "answered without choices[0].message.content"),
        (Answer(body=[]), "answered without choices[0].message.content"),
        (Answer(status=401, body=b"no"), "answered HTTP 401: no"),
    ],
)
def test_no_grade_is_no_score(answer, problem):
    with serve(lambda request: answer) as server:
        scores = judge(server.url).score(make_batch(["a"]))
    assert scores.values == (None,)
    assert scores.problems == (problem,)
    assert len(server.requests) == 1


def test_errors_and_hangs_are_tried_again():
    seen = {}

    def flaky(request):
        content = request.body["messages"][0]["content"]
        seen[content] = seen.get(content, 0) + 1
        words = len(content.split())
        if seen[content] == 1 and words % 5 == 0:
            return Answer(status=502)
        if seen[content] == 1 and words % 7 == 0:
            return HANG
        return graded(request)

    batch = make_batch([" ".join(["word"] * (i % 11)) + f"{'x' * i}" for i in range(40)])
    with serve(flaky) as server:
        scores = judge(server.url, timeout_s=1.5).score(batch)
    assert max(seen.values()) >= 2
    assert scores.problems == (None,) * 40
    assert scores.values == tuple(len(text.split()) / 10 for text in batch.completions)


def test_what_stands_in_braces_stays_as_it_is():
    batch = make_batch(["a {prompt} {response} {columns} {x} {0} %s {"], facts=["{response}"])
    filled = fill("{{prompt}} <{response}> {columns}", batch, 0, {"response": batch.completions[0]})
    assert filled.startswith("{<image> how many ?} <a {prompt} {response} {columns} {x} {0} %s {> {")
    assert json.loads(filled.rpartition("> ")[2])["facts"] == "{response}"


@pytest.mark.parametrize(
    ("text", "grade"),
    [
        ("7", 7),
        ("First 3, then\nGrade: 7.5\n\n  ", 7.5),
        ("**8/10**", 8),
        ("Score: 8 out of 10.", 8),
        ("between 3 and 4", 4),
        ("-2", -2),
        ("10\nThank you.", None),
        ("grade v2", None),
        ("", None),
    ],
)
def test_grades(text, grade):
    assert read_grade(text) == grade
