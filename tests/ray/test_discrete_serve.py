"""An exported decision network as a deployment of Ray Serve."""

import socket
from pathlib import Path

import httpx
import pytest
from ray import serve

from mmrlhf_ray.demo.digits import digit_png
from mmrlhf_ray.discrete.export import export_onnx
from mmrlhf_ray.discrete.files import MODULE_DIR, ONNX_FILE
from mmrlhf_ray.discrete.onnx_file import open_session, session_scores
from mmrlhf_ray.discrete.request import observe
from mmrlhf_ray.discrete.saved import inference_module, load_net, save_module
from mmrlhf_ray.discrete.serve import NAME, DiscreteServeConfig, build
from mmrlhf_ray.runtime.session import ray_session
from tests.unit.discrete_tiny import job


def test_a_picture_through_ray_serve(tmp_path: Path) -> None:
    save_module(inference_module(job(fusion={"stage": "early"})), tmp_path / MODULE_DIR)
    cfg, net = load_net(tmp_path / MODULE_DIR)
    exported = tmp_path / MODULE_DIR / ONNX_FILE
    export_onnx(net, cfg, exported)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with ray_session(num_cpus=2):
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(build(DiscreteServeConfig(run=str(tmp_path))), name=NAME, route_prefix="/")
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
                got = client.post("/decide", files={"image": digit_png(3)}, data={"said": "a red one"}).json()
                assert client.post("/decide", files={"image": b"no picture"}).status_code == 400
        finally:
            serve.shutdown()
    observation = observe(cfg, "colour", {"image": digit_png(3), "said": "a red one"})
    expected = session_scores(open_session(exported))(observation)[0]
    assert list(got["scores"].values()) == pytest.approx(expected.tolist(), abs=1e-6)
    assert got["decision"] == cfg.tasks["colour"].classes[int(expected.argmax())]
