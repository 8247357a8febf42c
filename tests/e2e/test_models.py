"""What comes after training, with the real vLLM: ask a model, talk with it, serve it, and load it with eight bits."""

import base64
import hashlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from mmrlhf_ray.config import DataConfig, JudgeReward
from mmrlhf_ray.data.encoding.encode import load_encoder, render
from mmrlhf_ray.data.media import media_row
from mmrlhf_ray.data.records.readers import read_records
from mmrlhf_ray.demo.digits import digit_png
from mmrlhf_ray.demo.model import build_model
from mmrlhf_ray.models import adapter_for
from mmrlhf_ray.models.quantize import layers_of, quantize_model
from mmrlhf_ray.rewards.judge import JudgeScores
from mmrlhf_ray.schema import DEMONSTRATION
from tests.e2e.feedback_support import first_token, free_port, running
from tests.e2e.support import Running, mmrlhf, start
from tests.e2e.transformers_server import TransformersModel, serving_transformers
from tests.unit.rewards.support import make_batch
from tests.unit.tiny import noise

pytestmark = pytest.mark.e2e

_START_S = 500


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    file = tmp_path / "digit.png"
    file.write_bytes(digit_png(3))
    return file


def test_a_question_with_a_picture(model_dir: Path, picture: Path, tmp_path: Path) -> None:
    options = ("--image", str(picture), "--temperature", "0", "--max-tokens", "8")
    done = mmrlhf("generate", str(model_dir), "which digit ?", *options, cwd=tmp_path)
    assert done.returncode == 0, done.err
    assert done.out.strip()
    again = mmrlhf("generate", str(model_dir), "which digit ?", "--temperature", "0", "--max-tokens", "8", cwd=tmp_path)
    assert again.out != done.out, "the picture changes nothing"


def test_several_turns_with_a_picture(model_dir: Path, picture: Path, tmp_path: Path) -> None:
    lines = [
        f"/image {picture}",
        "which digit ?",
        "/sing",
        "and the next ?",
        "/image away.png",
        "/clear",
        "hi",
        "/quit",
    ]
    command = [sys.executable, "-m", "mmrlhf_ray.cli", "chat", str(model_dir), "--max-tokens", "4"]
    done = subprocess.run(
        command, input="\n".join(lines), capture_output=True, text=True, timeout=600, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) >= 3, "one answer to each message"
    notes = done.stderr
    assert f"image: {picture} is shown with the next message" in notes
    assert "away.png: expected a file of kind image: No such file or directory" in notes
    assert "the conversation starts over" in notes
    assert notes.count("/quit ends") == 2, "at the start, and for what is no command"


@dataclass(frozen=True)
class Served:
    """`mmrlhf serve` with a feedback app, in whose arena the model meets another one."""

    client: openai.OpenAI
    data_dir: str
    """Of the app, as a setting."""
    feedback: httpx.Client
    """The app's API as an administrator uses it."""
    other: TransformersModel
    """The arena's second model: other weights, by transformers."""


@pytest.fixture(scope="module")
def served(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    tmp_path, port = tmp_path_factory.mktemp("served"), free_port()
    build_model(tmp_path / "other", seed=1)
    other = TransformersModel.load(tmp_path / "other")
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        models: list[dict[str, str]] = [
            {"name": "first", "base_url": f"http://127.0.0.1:{port}/v1", "token_env": "MMRLHF_SERVE_TOKEN"},
            {"name": "second", "base_url": stack.enter_context(serving_transformers(other))},
        ]
        arena = json.dumps({"models": models, "max_tokens": 8, "deadline_s": 300.0, "temperature": 0.0})
        settings = [f"data_dir={tmp_path / 'feedback'}", f"arena={arena}"]
        patch.setenv("MMRLHF_SERVE_TOKEN", "secret")
        feedback = stack.enter_context(running(settings, tmp_path / "feedback.log"))
        admin = {"Authorization": f"Bearer {first_token(feedback)}"}
        account = ("feedback", "annotators", "add", "mine", "--role", "client", "--set", settings[0])
        token = mmrlhf(*account, cwd=tmp_path).out.strip()
        options = ("--name", "mine", "--port", str(port), "--context", "128", "--feedback", feedback.url)
        env = {"MMRLHF_SERVE_TOKEN": "secret", "MMRLHF_FEEDBACK_TOKEN": token}
        server = start("serve", str(model_dir), *options, cwd=tmp_path, env=env)
        try:
            _await_address(server)
            client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="secret")
            with httpx.Client(base_url=feedback.url, headers=admin, timeout=400) as app:
                yield Served(client, settings[0], app, other)
        finally:
            server.process.send_signal(signal.SIGINT)
            ended = server.finish(240)
    assert ended.returncode == 0, ended.err


def _await_address(server: Running) -> None:
    output, until = server.process.stdout, time.monotonic() + _START_S
    assert output is not None
    while time.monotonic() < until:
        if select.select([output], [], [], 1.0)[0] and output.readline().endswith("/v1 answers\n"):
            return
        assert server.process.poll() is None, server.process.communicate()
    raise AssertionError(f"no address within {_START_S} s")


def test_openais_client_with_a_picture_and_a_thumb_that_becomes_a_record(
    served: Served, picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, data_dir = served.client, served.data_dir
    assert [model.id for model in client.models.list()] == ["mine"]
    with pytest.raises(openai.AuthenticationError, match="api_key"):
        client.with_options(api_key="wrong").models.list()
    url = f"data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}"
    content: Any = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "which digit ?"}]
    messages: Any = [{"role": "user", "content": content}]
    answer = client.chat.completions.create(model="mine", messages=messages, max_tokens=8)
    text = answer.choices[0].message.content
    assert text
    stream = client.chat.completions.create(model="mine", messages=messages, max_tokens=8, stream=True)
    chunks = list(stream)
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert streamed
    content[0] = {"type": "image_url", "image_url": {"url": "http://127.0.0.1:1/a.png"}}
    with pytest.raises(openai.APIStatusError):
        client.chat.completions.create(model="mine", messages=messages, max_tokens=2)

    monkeypatch.setenv("MMRLHF_SERVE_TOKEN", "secret")
    reward = JudgeReward(
        kind="judge", name="judge", base_url=str(client.base_url), model="mine", prompt="which digit ? {response}",
        media=("image", "audio"), token_env="MMRLHF_SERVE_TOKEN", max_tokens=4, attempts=1,
    )  # fmt: skip
    shown = (media_row("image", picture.read_bytes()), media_row("audio", noise(0, 0.2)))
    (why,) = JudgeScores(reward).score(replace(make_batch(["answer : 3"]), media=(shown,))).problems
    assert why is None or "grade" in why or "cut off" in why, "an untrained judge sees and hears, and says no number"

    judged = {"response_id": answer.id, "kind": "thumbs_up"}
    assert client.post("/feedback", body=judged, cast_to=httpx.Response).status_code == 201
    edited = {"response_id": chunks[0].id, "kind": "edit", "text": "A three."}
    assert client.post("/feedback", body=edited, cast_to=httpx.Response).status_code == 201
    out = tmp_path / "records"
    done = mmrlhf("feedback", "implicit", str(out), "--set", data_dir, cwd=tmp_path)
    assert done.returncode == 0, done.err
    rows = read_records(DataConfig(path=str(out)), DEMONSTRATION, tmp_path).records.to_pylist()
    found = {row["response"]: row["feedback"] for row in rows}
    assert found[text] == 1.0
    assert {row["modality"] for row in rows} == {"image"}


def test_served_models_meet_in_the_arena(served: Served, picture: Path) -> None:
    data = picture.read_bytes()
    url = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    content: Any = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "which digit ?"}]
    messages: Any = [{"role": "user", "content": content}]
    first = served.client.chat.completions.create(model="mine", messages=messages, max_tokens=8, temperature=0.0)
    answers = {"first": first.choices[0].message.content, "second": served.other.answer(messages, 8)}
    assert answers["first"] != answers["second"]
    media_id = hashlib.sha256(data).hexdigest()
    assert served.feedback.put(f"/api/media/{media_id}", content=data).is_success
    for choice in ("left", "right", "left"):
        question = {"prompt": "which digit ?", "media_ids": [media_id]}
        battle = served.feedback.post("/api/arena/battles", json=question)
        assert battle.status_code == 201, battle.text
        address = f"/api/arena/battles/{battle.json()['battle_id']}/vote"
        named = served.feedback.post(address, json={"choice": choice}).json()["models"]
        assert dict(zip(named, battle.json()["responses"], strict=True)) == answers
    ratings = served.feedback.get("/api/arena/ratings").json()
    assert (ratings["votes"], sum(model["wins"] for model in ratings["models"])) == (3, 3)
    rows = [json.loads(line) for line in served.feedback.get("/api/export").text.splitlines()]
    assert [dict(zip(row["sources"], row["responses"], strict=True)) for row in rows] == [answers] * 3


VLLM = """
import json, sys
from PIL import Image
from vllm import LLM, SamplingParams
llm = LLM(model=sys.argv[1], dtype="float32", max_model_len=128, enforce_eager=True, max_num_seqs=8)
prompt = {"prompt_token_ids": json.loads(sys.argv[2]), "multi_modal_data": {"image": Image.open(sys.argv[3])}}
(output,) = llm.generate([prompt], SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0))
print("FOUND " + json.dumps([next(iter(own.values())).logprob for own in output.prompt_logprobs[1:]]))
"""


def _in_vllm(model: Path, ids: list[int], image: Path) -> list[float] | str:
    """Log-probabilities of a prompt with an image; what vLLM said where it does not load the model."""
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "TORCHDYNAMO_DISABLE": "1",
    }
    command = [sys.executable, "-c", VLLM, str(model), json.dumps(ids), str(image)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500, check=False)
    found = re.search(r"FOUND (.*)", done.stdout)
    return [float(value) for value in json.loads(found[1])] if found else done.stderr


def test_eight_bits_in_vllms_cpu_build(model_dir: Path, tmp_path: Path) -> None:
    """What comes after an image is as probable as before: nothing of the tower is rounded."""
    adapter, image = adapter_for(model_dir), tmp_path / "digit.png"
    image.write_bytes(digit_png(0))
    layers = layers_of(adapter, model_dir)
    asked = [{"type": "image"}, {"type": "text", "text": "which digit does the image show ?"}]
    _, ids = render(load_encoder(model_dir), [{"role": "user", "content": asked}])
    before = _in_vllm(model_dir, ids, image)
    assert isinstance(before, list), before
    quantize_model(model_dir, tmp_path / "int8-dynamic", layers, "int8-dynamic")
    after = _in_vllm(tmp_path / "int8-dynamic", ids, image)
    assert isinstance(after, list), after
    differences = [abs(a - b) for a, b in zip(after, before, strict=True)]
    assert 0 < max(differences) < 0.05
