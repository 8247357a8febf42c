"""An exported decision network behind `mmrlhf discrete-serve`, as a user starts and ends it."""

import os
import select
import signal
import socket
import time
from pathlib import Path

import httpx
import pytest

from mmrlhf_ray.demo.digits import digit_png
from mmrlhf_ray.discrete.export import export_onnx
from mmrlhf_ray.discrete.files import MODULE_DIR, ONNX_FILE
from mmrlhf_ray.discrete.onnx_file import open_session, session_scores
from mmrlhf_ray.discrete.request import observe
from mmrlhf_ray.discrete.saved import inference_module, load_net, save_module
from tests.e2e.support import Running, mmrlhf, refused, start
from tests.unit.discrete_tiny import job


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """A run's directory."""
    save_module(inference_module(job(fusion={"stage": "early"})), tmp_path / MODULE_DIR)
    cfg, net = load_net(tmp_path / MODULE_DIR)
    export_onnx(net, cfg, tmp_path / MODULE_DIR / ONNX_FILE)
    return tmp_path


def _await_address(server: Running, timeout_s: float) -> None:
    output, until = server.process.stdout, time.monotonic() + timeout_s
    assert output is not None
    while time.monotonic() < until:
        if select.select([output], [], [], 1.0)[0]:
            line = output.readline()
            if line.endswith("/decide answers\n"):
                return
        assert server.process.poll() is None, server.process.communicate()
    raise AssertionError(f"no address within {timeout_s} s")


def _await_answers(client: httpx.Client, timeout_s: float) -> None:
    """Eight in a row, a second apart: longer than the command takes between two looks at the application."""
    until, answered = time.monotonic() + timeout_s, 0
    while answered < 8:
        answered = answered + 1 if client.get("/").status_code == 200 else 0
        assert time.monotonic() < until
        time.sleep(1.0)


def test_a_picture_through_ray_serve_until_it_is_told_to_end(exported: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = start("discrete-serve", str(exported), "--port", str(port), cwd=exported)
    try:
        _await_address(server, 400)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            got = client.post("/decide", files={"image": digit_png(3)}, data={"said": "a red one"}).json()
            assert client.post("/decide", files={"image": b"no picture"}).status_code == 400
            (replica,) = (pid for pid, command in server.processes().items() if "ServeReplica" in command)
            os.kill(replica, signal.SIGKILL)
            _await_answers(client, 300)
    finally:
        server.process.send_signal(signal.SIGINT)
        ended = server.finish(240)
    assert ended.returncode == 0, ended.err
    cfg, _ = load_net(exported / MODULE_DIR)
    observation = observe(cfg, "colour", {"image": digit_png(3), "said": "a red one"})
    expected = session_scores(open_session(exported / MODULE_DIR / ONNX_FILE))(observation)[0]
    assert list(got["scores"].values()) == pytest.approx(expected.tolist(), abs=1e-6)
    assert got["decision"] == cfg.tasks["colour"].classes[int(expected.argmax())]


def test_a_port_that_is_taken_is_said(exported: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused(
            mmrlhf("discrete-serve", str(exported), "--port", str(port), cwd=exported), f"127.0.0.1:{port}", "--port"
        )
