"""What a served model reports, against the real feedback app: prompts with their media, answers, thumbs and edits."""

import asyncio
import base64
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from mmrlhf_ray.config import DataConfig, FeedbackConfig
from mmrlhf_ray.data.errors import RowError
from mmrlhf_ray.data.records.readers import read_records
from mmrlhf_ray.feedback.app.factory import create_app
from mmrlhf_ray.feedback.collect.accounts import add_annotator
from mmrlhf_ray.feedback.collect.database import open_database
from mmrlhf_ray.feedback.collect.observed import write_implicit
from mmrlhf_ray.pipelines.serve.report import Answers, Judgement, Reporter, asked
from mmrlhf_ray.schema import DEMONSTRATION, PREFERENCE
from tests.unit.tiny import noise, picture

PICTURE = picture(1)


def url(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def question(*parts: dict[str, Any], text: str = "Which digit?") -> list[dict[str, Any]]:
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]


IMAGE = {"type": "image_url", "image_url": {"url": url("image/png", PICTURE)}}
COMPLETION = {"id": "chatcmpl-1", "choices": [{"index": 0, "message": {"role": "assistant", "content": "Seven."}}]}


@pytest.fixture
def config(tmp_path: Path) -> FeedbackConfig:
    return FeedbackConfig(data_dir=str(tmp_path / "feedback"))


@pytest.fixture
def reporter(config: FeedbackConfig) -> Iterator[Reporter]:
    """To an app on a port of this machine."""
    database = open_database(config)
    with database.write() as session:
        token = add_annotator(session, "model", "client", "test", datetime.now(UTC))[1]
    database.close()
    server = uvicorn.Server(uvicorn.Config(create_app(config), host="127.0.0.1", port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    yield Reporter(f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}", token, "mine")
    server.should_exit = True
    thread.join()


def records(config: FeedbackConfig, kind: str, out: Path) -> list[dict[str, Any]]:
    database = open_database(config)
    with database.read() as session:
        write_implicit(session, config, kind, out)
    database.close()
    schema = {"demonstration": DEMONSTRATION, "preference": PREFERENCE}[kind]
    return read_records(DataConfig(path=str(out)), schema, out).records.to_pylist()


def judge(reporter: Reporter, **values: Any) -> tuple[int, dict[str, Any]]:
    return asyncio.run(reporter.judged(Judgement(**values)))


def test_a_thumb_becomes_a_record_with_the_picture(reporter: Reporter, config: FeedbackConfig, tmp_path: Path) -> None:
    answers = Answers()
    answers.add(COMPLETION)
    reporter.answered(question(IMAGE), answers)
    status, body = judge(reporter, response_id="chatcmpl-1", kind="thumbs_up", event_id="e1")
    assert (status, body) == (201, {"event_id": "e1"})
    assert judge(reporter, response_id="chatcmpl-1", kind="thumbs_up", event_id="e1")[0] == 200, "it counts once"
    (row,) = records(config, "demonstration", tmp_path / "out")
    assert (row["response"], row["feedback"], row["modality"]) == ("Seven.", 1.0, "image")
    assert json.loads(row["messages"]) == [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Which digit?"}]}
    ]


def test_an_edit_of_a_streamed_answer_becomes_a_preference(
    reporter: Reporter, config: FeedbackConfig, tmp_path: Path
) -> None:
    chunks = [
        {"id": "chatcmpl-2", "choices": [{"index": number, "delta": {"content": piece}}]}
        for number, piece in ((0, "It is a "), (1, "No"), (0, "two."), (1, "."))
    ]
    text = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"

    async def parts() -> AsyncIterator[str]:
        for start in range(0, len(text), 37):  # as chunks of HTTP are cut
            yield text[start : start + 37]

    async def passed_on() -> str:
        return "".join([str(part) async for part in reporter.streamed(question(IMAGE), parts())])

    assert asyncio.run(passed_on()) == text
    assert judge(reporter, response_id="chatcmpl-2", kind="edit", text="It is a seven.")[0] == 201
    assert judge(reporter, response_id="chatcmpl-2/1", kind="thumbs_down")[0] == 201
    (row,) = records(config, "preference", tmp_path / "pairs")
    assert (row["chosen"], row["rejected"]) == ("It is a seven.", "It is a two.")
    found = {row["response"]: row["feedback"] for row in records(config, "demonstration", tmp_path / "out")}
    assert found == {"No.": -1.0, "It is a two.": pytest.approx(-0.3)}


def test_what_the_app_refuses_is_said(reporter: Reporter) -> None:
    status, body = judge(reporter, response_id="never", kind="thumbs_up")
    assert (status, body["field"]) == (404, "response_id")
    status, body = judge(reporter, response_id="never", kind="applause")
    assert status == 422
    assert "thumbs_up" in body["error"]


def test_an_app_that_is_away_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmrlhf_ray.pipelines.serve.report._PATIENCE_S", 0.5)
    away = Reporter("http://127.0.0.1:9", "token", "mine")
    status, body = judge(away, response_id="r", kind="copy", event_id="e1")
    assert status == 503
    assert body["event_id"] == "e1"


def test_prompts_as_clients_write_them() -> None:
    sound = {"type": "input_audio", "input_audio": {"data": base64.b64encode(noise(1, 0.1)).decode(), "format": "wav"}}
    found = asked([{"role": "system", "content": "Be brief."}, *question(IMAGE, sound)])
    assert [clip["kind"] for clip in found.media] == ["image", "audio"]
    assert found.media[0]["data"] == PICTURE
    assert [message["role"] for message in found.messages] == ["system", "user"]


def test_prompts_that_are_no_record() -> None:
    elsewhere = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
    with pytest.raises(RowError, match="the image is named by an address; send it as a data: URL"):
        asked(question(elsewhere))
    with pytest.raises(RowError, match="the last message is from assistant"):
        asked([*question(), {"role": "assistant", "content": "Seven."}, {"role": "assistant", "content": "x"}])


def test_an_answer_to_no_record_is_left_out(reporter: Reporter, caplog: pytest.LogCaptureFixture) -> None:
    answers = Answers()
    answers.add(COMPLETION)
    reporter.answered(question({"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}), answers)
    assert "response chatcmpl-1 is not reported: the image is named by an address" in caplog.text
