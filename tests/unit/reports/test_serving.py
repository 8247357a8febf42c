"""Pages for this machine only."""

from collections.abc import Iterator, Mapping
from threading import Thread

import httpx
import pytest

from mmrlhf_ray.errors import RunError
from mmrlhf_ray.reports.serving import HOST, Answer, page_policy, page_server


def ask(path: str, query: Mapping[str, str]) -> Answer | None:
    if path == "/broken":
        raise RunError("line 3 of <metrics> is not JSON")
    return Answer(f"{path} {sorted(query.items())}".encode(), "text/plain") if path == "/here" else None


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with page_server(ask, 0, page_policy("'self'", "'self'", script="'self'")) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        with httpx.Client(base_url=f"http://{HOST}:{server.server_port}", trust_env=False) as client:
            yield client
        server.shutdown()
        thread.join()


def test_what_is_asked_for_and_what_is_not_there(client: httpx.Client) -> None:
    assert client.get("/here?b=1&a=x%20y&b=2").text == "/here [('a', 'x y'), ('b', '2')]"
    assert client.get("/there").status_code == 404
    assert client.get("/here", headers={"Host": "example.org"}).status_code == 403


def test_what_cannot_be_shown_says_why(client: httpx.Client) -> None:
    answer = client.get("/broken")
    assert answer.status_code == 500
    assert "line 3 of &lt;metrics&gt; is not JSON" in answer.text
    assert answer.headers["content-security-policy"].endswith("frame-ancestors 'none'")


@pytest.mark.parametrize(
    ("asked", "status", "body"),
    [
        ("bytes=1-3", 206, "her"),
        ("bytes=6-", 206, "[]"),
        ("bytes=99-", 200, "/here []"),
        ("lines=1-2", 200, "/here []"),
    ],
)
def test_parts_of_a_file(client: httpx.Client, asked: str, status: int, body: str) -> None:
    answer = client.get("/here", headers={"Range": asked})
    assert (answer.status_code, answer.text) == (status, body)
    if status == 206:
        assert answer.headers["content-range"].endswith("/8")
