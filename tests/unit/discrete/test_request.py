"""From files and text to an observation and an answer, as training sees the same records; what the endpoint says."""

import json

import numpy as np
import pytest
from starlette.testclient import TestClient

from mmrlhf_ray.config.load import save_config
from mmrlhf_ray.data.media import to_wav
from mmrlhf_ray.demo.digits import digit_png
from mmrlhf_ray.discrete.export import export_onnx
from mmrlhf_ray.discrete.files import CONFIG_FILE, MODULE_DIR, ONNX_FILE
from mmrlhf_ray.discrete.front_end import front_end
from mmrlhf_ray.discrete.request import BadRequest, answer, chosen_task, observe
from mmrlhf_ray.discrete.saved import load_net, save_module
from mmrlhf_ray.discrete.serve import DiscreteServeConfig, build, create_app
from mmrlhf_ray.discrete.spaces import observation_space
from mmrlhf_ray.discrete.tasks import text_array
from mmrlhf_ray.errors import ConfigError
from tests.unit.discrete_nets import SOUND, TWO_TASKS, make
from tests.unit.discrete_tiny import NOWHERE, TEXT, job

IMAGE = {"kind": "image", "height": 16, "width": 16}
SAMPLES = np.sin(np.arange(400) / 3).astype(np.float32) * 0.5
GIVEN = {"image": digit_png(5), "tone": to_wav(SAMPLES, 4000), "said": "Red dog"}
MODALITIES = {"modalities": {"image": IMAGE, "tone": SOUND, "said": TEXT}}


def test_an_observation_is_what_training_would_see():
    cfg = job(observation=MODALITIES, tasks=TWO_TASKS)
    seen = observe(cfg, "shade", GIVEN)
    modalities = cfg.observation.modalities
    assert observation_space(cfg).contains({name: array[0] for name, array in seen.items()})
    assert seen["image"][0].max() == 1.0
    np.testing.assert_allclose(seen["tone"][0], front_end(SAMPLES, modalities["tone"]), atol=1e-2)  # 16 bits
    assert seen["said"][0].tolist() == text_array("red dog", modalities["said"]).tolist()
    assert seen["present"].tolist() == [[1, 1, 1]]
    assert seen["task"].tolist() == [[0, 1]]
    alone = observe(cfg, "colour", {"said": "red"})
    assert alone["present"].tolist() == [[0, 0, 1]]
    assert not alone["image"].any()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, r"expected at least one of image \(image\), tone \(audio\), said \(text\); got nothing"),
        ({"smell": b""}, "got 'smell'"),
        ({"image": "a text"}, "image: expected an image file, got text"),
        ({"said": b"bytes"}, "said: expected text, got a file"),
        ({"said": "  "}, "said: expected text, got none"),
        ({"image": b"no picture"}, "image: .*; send an image file"),
        ({"tone": GIVEN["image"]}, "tone: .*; send an audio file"),
    ],
)
def test_what_cannot_be_seen_is_said(given, said):
    with pytest.raises(BadRequest, match=said):
        observe(job(observation=MODALITIES), "colour", given)


def test_a_task_must_be_named_where_there_are_several():
    assert chosen_task(job(), None) == "colour"
    with pytest.raises(BadRequest, match="task: expected one of colour, shade, got None"):
        chosen_task(job(tasks=TWO_TASKS), None)


def test_a_request_takes_the_place_of_a_decision_only_for_what_is_missing():
    cfg = job(sequential={"first": "image"})
    actions = ["red", "green", "blue", "image", "said"]
    scores = np.array([0.1, 0.4, 0.2, 0.9, 0.5], np.float32)
    seen = {"present": np.array([[1.0, 0.0]], np.float32)}
    asked = answer(cfg, "colour", seen, scores, actions, final=False)
    assert asked["ask_for"] == "said"
    assert "decision" not in asked
    for final, present in ((True, [[1.0, 0.0]]), (False, [[1.0, 1.0]])):
        decided = answer(cfg, "colour", {"present": np.array(present)}, scores, actions, final)
        assert (decided["decision"], decided["action"]) == ("green", 1)
        assert list(decided["scores"]) == ["red", "green", "blue"]


def test_a_located_box_comes_as_numbers():
    grid = {"columns": 2, "rows": 1, "width": 0.5, "height": 1.0}
    cfg = job(tasks={"where": {"kind": "locate", "grid": grid, **NOWHERE}})
    seen = {"present": np.ones((1, 2), np.float32)}
    decided = answer(cfg, "where", seen, np.array([0.1, 0.3], np.float32), ["left", "right"], final=False)
    assert decided["box"] == [0.5, 0.0, 1.0, 1.0]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished, exported run of two tasks."""
    path = tmp_path_factory.mktemp("run")
    cfg = job(observation=MODALITIES, tasks=TWO_TASKS, algorithm={"kind": "ppo"})
    save_module(make(cfg), path / MODULE_DIR)
    cfg, net = load_net(path / MODULE_DIR)
    export_onnx(net, cfg, path / MODULE_DIR / ONNX_FILE)
    return path


def test_the_endpoint_answers_as_the_network(run):
    import torch

    cfg, net = load_net(run / MODULE_DIR)
    client = TestClient(create_app(run / MODULE_DIR, 2**20))
    files = {"image": GIVEN["image"], "tone": GIVEN["tone"]}
    got = client.post("/decide", files=files, data={"said": GIVEN["said"], "task": "colour"}).json()
    seen = {name: torch.as_tensor(array) for name, array in observe(cfg, "colour", GIVEN).items()}
    expected = net(seen)[0].tolist()
    assert list(got["scores"].values()) == pytest.approx(expected, abs=1e-5)
    assert got["decision"] == cfg.tasks["colour"].classes[int(np.argmax(expected))]
    assert got["missing"] == []
    alone = client.post("/decide", data={"said": "red", "task": "shade"}).json()
    assert alone["missing"] == ["image", "tone"]
    assert list(alone["scores"]) == ["dark", "light"]
    assert client.get("/health").json() == {"status": "ok"}
    assert client.get("/").json()["tasks"] == {"colour": ["red", "green", "blue"], "shade": ["dark", "light"]}


def test_the_endpoint_says_what_is_wrong(run):
    client = TestClient(create_app(run / MODULE_DIR, 1000))
    wrong = client.post("/decide", data={"task": "taste", "said": "x"})
    assert (wrong.status_code, wrong.json()["error"]) == (400, "task: expected one of colour, shade, got 'taste'")
    assert client.post("/decide", data={"task": "shade"}).status_code == 400
    assert client.post("/decide", data={"task": "shade", "said": "x" * 2000}).status_code == 413
    unsized = client.post("/decide", content=iter([b"x" * 2000]))
    assert unsized.status_code == 413


def test_an_export_of_another_configuration_is_refused(run, tmp_path):
    (tmp_path / ONNX_FILE).write_bytes((run / MODULE_DIR / ONNX_FILE).read_bytes())
    save_config(job(), tmp_path / CONFIG_FILE)
    with pytest.raises(ConfigError, match="export the run again"):
        create_app(tmp_path, 1000)


def test_a_run_that_was_not_exported_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="make it with `mmrlhf discrete-export"):
        build(DiscreteServeConfig(run=str(tmp_path)))


def test_scores_are_json(run):
    client = TestClient(create_app(run / MODULE_DIR, 2**20))
    json.loads(client.post("/decide", data={"said": "red", "task": "shade"}).text)
