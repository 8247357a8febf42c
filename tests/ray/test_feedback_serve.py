"""The feedback app as a deployment of Ray Serve."""

import json
import socket
import uuid
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from ray import serve

from mmrlhf_ray.config import FeedbackConfig
from mmrlhf_ray.errors import ConfigError
from mmrlhf_ray.feedback.app.serve_ray import NAME, RayServeConfig, build
from mmrlhf_ray.feedback.collect.accounts import add_annotator
from mmrlhf_ray.feedback.collect.database import open_database
from mmrlhf_ray.feedback.collect.tables import COMMAND
from mmrlhf_ray.runtime.session import SessionInfo


def admin_token(config: FeedbackConfig) -> str:
    database = open_database(config)
    with database.write() as session:
        token = add_annotator(session, "root", "admin", COMMAND, datetime.now(UTC))[1]
    database.close()
    return token


def test_a_vote_through_ray_serve(session: SessionInfo, tmp_path: Path) -> None:
    config = RayServeConfig(data_dir=str(tmp_path), gold_share=0.0)
    token = admin_token(config)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(build(config), name=NAME, route_prefix="/")
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            assert client.post("/api/lease").status_code == 401
            client.headers["authorization"] = f"Bearer {token}"
            items = [{"prompt": "q", "question": "pair", "responses": ["a", "b"]}]
            assert client.post("/api/items", json=items).status_code == 201
            item = client.post("/api/lease").json()
            vote = {"vote_id": str(uuid.uuid4()), "item_id": item["item_id"], "answer": {"choice": "left"}}
            assert [client.post("/api/votes", json=vote).status_code for _ in range(2)] == [201, 200]
            (row,) = [json.loads(line) for line in client.get("/api/export").text.splitlines()]
            assert row["responses"][row["ranks"].index(1)] == item["responses"][0]
            page = client.get("/login")
            assert page.headers["content-security-policy"].startswith("default-src 'self'")
    finally:
        serve.shutdown()


def test_replicas_do_not_share_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="replicas: 2 replicas cannot share sqlite"):
        build(RayServeConfig(data_dir=str(tmp_path), replicas=2))
