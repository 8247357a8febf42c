"""50 annotators vote over HTTP while the server is killed five times: nothing is lost or counted twice.

FEEDBACK_VOTES=10000 makes it the run that docs/feedback.md reports; more votes between two kills prove no more.
"""

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from mmrlhf_ray.config import FeedbackConfig
from mmrlhf_ray.demo.feedback_items import add_demo_items
from mmrlhf_ray.feedback.collect.backup import back_up, restore
from mmrlhf_ray.feedback.collect.database import open_database
from mmrlhf_ray.feedback.collect.tables import COMMAND, note
from tests.e2e.feedback_support import Server, first_token, postgres_binary, postgresql, running

pytestmark = pytest.mark.e2e

ANNOTATORS, OVERLAP = 50, 4
ITEMS = int(os.environ.get("FEEDBACK_VOTES", "1200")) // OVERLAP
VOTES = ITEMS * OVERLAP
KILLS = 5
PROCESSES = 2
DEADLINE_S = 900
DATABASES = [
    "sqlite",
    pytest.param(
        "postgresql", marks=pytest.mark.skipif(not postgres_binary("postgres"), reason="PostgreSQL is not installed")
    ),
]


@pytest.fixture
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    sqlite = nullcontext(f"sqlite:///{tmp_path}/votes.sqlite3")
    with postgresql() if request.param == "postgresql" else sqlite as url:
        yield url


@pytest.mark.skipif(not postgres_binary("postgres"), reason="PostgreSQL is not installed")
def test_a_collection_moves_to_postgresql_and_back(tmp_path: Path) -> None:
    with postgresql() as url:
        first, moved, back = (
            FeedbackConfig.model_validate({"data_dir": str(tmp_path / name), "database": database})
            for name, database in (("first", None), ("moved", url), ("back", None))
        )
        databases = [open_database(config) for config in (first, moved, back)]
        add_demo_items(databases[0], first)
        back_up(databases[0], first, tmp_path / "one")
        restore(databases[1], moved, tmp_path / "one")
        with databases[1].write() as session:
            note(session, datetime.now(UTC), COMMAND, "export")  # the numbers of the audit log go on
        back_up(databases[1], moved, tmp_path / "two")
        restore(databases[2], back, tmp_path / "two")
        for database in databases:
            database.close()
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / name).glob("*.jsonl")} for name in ("one", "two"))
    assert two.pop("audit.jsonl").splitlines()[:-1] == one.pop("audit.jsonl").splitlines()
    assert one == two
    assert len(one["item.jsonl"].splitlines()) > 30


@pytest.mark.parametrize("database", DATABASES, indirect=True)
def test_no_vote_is_lost_or_counted_twice(database: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = [f"data_dir={tmp_path}/data", f"database={database}", "lease_s=300", "gold_share=0"]
    with running(settings, tmp_path / "server.log") as server:
        admin = httpx.Client(headers={"Authorization": f"Bearer {first_token(server)}"}, timeout=60)
        fill(admin, server)
        tokens = [new_annotator(admin, server, i) for i in range(ANNOTATORS)]
        start = time.monotonic()
        outs = [tmp_path / f"votes-{i}.jsonl" for i in range(PROCESSES)]
        clients = [start_clients(server, tokens[i::PROCESSES], out, i) for i, out in enumerate(outs)]
        try:
            kill_now_and_then(admin, server, clients)
            for client in clients:
                assert client.wait(DEADLINE_S) == 0
        finally:
            for client in clients:
                client.kill()
        seconds = time.monotonic() - start
        exported = [json.loads(line) for line in admin.get(f"{server.url}/api/export").text.splitlines()]
        progress = admin.get(f"{server.url}/api/progress").json()
        admin.close()
        assert server.stop(signal.SIGTERM) == 0

    acknowledged = [json.loads(line) for out in outs for line in out.read_text().splitlines()]
    report(capsys, database.partition(":")[0], acknowledged, seconds)
    check(acknowledged, exported)
    assert (progress["items"], progress["done"], progress["cast"]) == (ITEMS, ITEMS, VOTES)


def check(acknowledged: list[dict[str, Any]], exported: list[dict[str, Any]]) -> None:
    assert len(acknowledged) == VOTES
    assert {v["vote_id"] for v in acknowledged} == {row["annotation_id"] for row in exported}
    assert len(exported) == VOTES
    assert set(Counter(row["item_id"] for row in exported).values()) == {OVERLAP}
    assert len({(row["item_id"], row["annotator_id"]) for row in exported}) == VOTES
    assert len({row["annotator_id"] for row in exported}) == ANNOTATORS
    sent = {vote["vote_id"]: vote for vote in acknowledged}
    for row in exported:
        vote = sent[row["annotation_id"]]
        assert (row["item_id"], row["choice"]) == (vote["item_id"], vote["answer"]["choice"])
        assert row["milliseconds"] == vote["milliseconds"]
        liked = row["responses"][row["ranks"].index(1)]
        assert liked.startswith("good"), "the right side, whatever was left and right"
    assert {tuple(row["order_shown"]) for row in exported} == {(0, 1), (1, 0)}


def fill(admin: httpx.Client, server: Server) -> None:
    rows = [
        {"prompt": f"question {i}", "question": "pair", "responses": [f"good {i}", f"bad {i}"], "overlap": OVERLAP}
        for i in range(ITEMS)
    ]
    for i in range(0, ITEMS, 500):
        answer = admin.post(f"{server.url}/api/items", json=rows[i : i + 500])
        assert answer.status_code == 201, answer.text


def new_annotator(admin: httpx.Client, server: Server, number: int) -> str:
    answer = admin.post(f"{server.url}/api/annotators", json={"name": f"annotator {number}"})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["token"])


def start_clients(server: Server, tokens: list[str], out: Path, seed: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.e2e.feedback_clients", server.url, ",".join(tokens), str(out), str(seed)]
    return subprocess.Popen(command, cwd=Path(__file__).parents[2])


def kill_now_and_then(admin: httpx.Client, server: Server, clients: list[subprocess.Popen[bytes]]) -> None:
    """Without warning, five times, at even shares of the votes; each time it starts again on the same port."""
    for i in range(KILLS):
        until = time.monotonic() + DEADLINE_S
        while admin.get(f"{server.url}/api/progress").json()["cast"] < VOTES * (i + 1) / (KILLS + 1):
            assert time.monotonic() < until, "the votes do not come on"
            assert all(client.poll() in (None, 0) for client in clients), "a client failed"
            time.sleep(0.2)
        server.stop(signal.SIGKILL)
        server.start()


def report(capsys: pytest.CaptureFixture[str], name: str, acknowledged: list[dict[str, Any]], seconds: float) -> None:
    times = sorted(vote["seconds"] * 1000 for vote in acknowledged)
    p50, p95 = statistics.median(times), times[int(0.95 * len(times))]
    again = sum(vote["status"] == 200 for vote in acknowledged)
    with capsys.disabled():
        print(
            f"\n{name}: {len(times)} votes of {ANNOTATORS} annotators in {seconds:.0f} s, {KILLS} kills and restarts "
            f"included: {len(times) / seconds:.0f} votes/s; a vote is acknowledged in {p50:.0f} ms (median), "
            f"{p95:.0f} ms (p95), {times[-1]:.0f} ms (slowest); {again} were stored before a kill, confirmed after it"
        )
