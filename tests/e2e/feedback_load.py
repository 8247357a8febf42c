"""Simulated annotators vote in three projects, on pictures and sounds with places, while the server is killed.

What was acknowledged must be in the export once, with the place that was sent, and nothing else may be there.
"""

import hashlib
import io
import json
import signal
import statistics
import subprocess
import sys
import time
import wave
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

from tests.e2e.feedback_support import Server, first_token, running

OVERLAP = 4
PROJECTS: Mapping[str, Mapping[str, Any]] = {
    "pictures": {"priority": 1, "overlap": OVERLAP},
    "sounds": {"overlap": OVERLAP, "aspects": [{"name": "clear", "description": "Can it be heard?"}]},
    "words": {"overlap": OVERLAP, "kinds": ["pair"]},
}
"""Pairs with a box, ratings by an aspect of their own with a range, pairs."""
_DEADLINE_S = 900


@dataclass(frozen=True)
class Load:
    """How much is done."""

    annotators: int
    items: int
    """Of each project; each gets OVERLAP votes."""
    kills: int
    processes: int
    """Of annotators."""

    @property
    def votes(self) -> int:
        return len(PROJECTS) * self.items * OVERLAP


@dataclass(frozen=True)
class Outcome:
    """What the annotators and the server say."""

    load: Load
    acknowledged: list[dict[str, Any]]
    exported: Mapping[str, list[dict[str, Any]]]
    """By project."""
    progress: Mapping[str, Any]
    seconds: float

    def summary(self, name: str) -> str:
        """Rates and times in a line."""
        times = sorted(vote["seconds"] * 1000 for vote in self.acknowledged)
        p50, p95 = statistics.median(times), times[int(0.95 * len(times))]
        again = sum(vote["status"] == 200 for vote in self.acknowledged)
        return (
            f"{name}: {len(times)} votes of {self.load.annotators} annotators in {len(PROJECTS)} projects in "
            f"{self.seconds:.0f} s, {self.load.kills} kills and restarts included: {len(times) / self.seconds:.0f} "
            f"votes/s; a vote is acknowledged in {p50:.0f} ms (median), {p95:.0f} ms (p95), {times[-1]:.0f} ms "
            f"(slowest); {again} were stored before a kill, confirmed after it"
        )


def run_load(load: Load, database: str, directory: Path) -> Outcome:
    """Vote until nothing is left."""
    settings = [f"data_dir={directory}/data", f"database={database}", "lease_s=300", "gold_share=0"]
    with running(settings, directory / "server.log") as server:
        admin = httpx.Client(headers={"Authorization": f"Bearer {first_token(server)}"}, timeout=60)
        fill(admin, server, load)
        tokens = [_new_annotator(admin, server, i) for i in range(load.annotators)]
        start = time.monotonic()
        outs = [directory / f"votes-{i}.jsonl" for i in range(load.processes)]
        clients = [_start_clients(server, tokens[i :: load.processes], out, i) for i, out in enumerate(outs)]
        try:
            _kill_now_and_then(admin, server, clients, load)
            for client in clients:
                assert client.wait(_DEADLINE_S) == 0
        finally:
            for client in clients:
                client.kill()
        seconds = time.monotonic() - start
        exported = {name: _export(admin, server, name) for name in PROJECTS}
        progress = admin.get(f"{server.url}/api/progress").json()
        admin.close()
        assert server.stop(signal.SIGTERM) == 0
    acknowledged = [json.loads(line) for out in outs for line in out.read_text().splitlines()]
    return Outcome(load, acknowledged, exported, progress, seconds)


def check(outcome: Outcome) -> None:
    """None lost, none twice, none in the wrong project, each as it was sent."""
    load, rows = outcome.load, [row for project in outcome.exported.values() for row in project]
    assert len(outcome.acknowledged) == load.votes
    assert {vote["vote_id"] for vote in outcome.acknowledged} == {row["annotation_id"] for row in rows}
    assert len(rows) == load.votes
    assert set(Counter(row["item_id"] for row in rows).values()) == {OVERLAP}
    assert len({(row["item_id"], row["annotator_id"]) for row in rows}) == load.votes
    assert len({row["annotator_id"] for row in rows}) == load.annotators
    sent = {vote["vote_id"]: vote for vote in outcome.acknowledged}
    for project, own in outcome.exported.items():
        assert {row["item_id"].partition("-")[0] for row in own} == {project}
        for row in own:
            _check_row(row, sent[row["annotation_id"]])
    counted = (outcome.progress["items"], outcome.progress["done"], outcome.progress["cast"])
    assert counted == (len(PROJECTS) * load.items, len(PROJECTS) * load.items, load.votes)


def _check_row(row: Mapping[str, Any], vote: Mapping[str, Any]) -> None:
    assert (row["item_id"], row["milliseconds"]) == (vote["item_id"], vote["milliseconds"])
    places = [(place["kind"], place["extent"]) for place in row["regions"]]
    assert places == [(place["kind"], place["extent"]) for place in vote["answer"].get("regions", [])]
    if row["kind"] == "rate":
        assert row["aspects"] == {"clear": [vote["answer"]["ratings"][0]["clear"]]}
    else:
        assert row["choice"] == vote["answer"]["choice"]
        liked = row["responses"][row["ranks"].index(1)]
        assert liked.startswith("good"), "the right side, whatever was left and right"


def fill(admin: httpx.Client, server: Server, load: Load) -> None:
    """Three projects with their items."""
    picture, sound = _upload(admin, server, "image", _png()), _upload(admin, server, "audio", _wav())
    for name, settings in PROJECTS.items():
        answer = admin.post(f"{server.url}/api/projects", json={"name": name, "settings": settings})
        assert answer.status_code == 201, answer.text
        shown = {"pictures": {"media_ids": [picture]}, "sounds": {"media_ids": [sound]}}.get(name, {})
        mark = {"pictures": "<image> ", "sounds": "<audio> "}.get(name, "")
        rows = [
            {"prompt": f"{mark}{name} {i}", "item_id": f"{name}-{i}", **_asked(name, i), **shown}
            for i in range(load.items)
        ]
        for i in range(0, load.items, 500):
            answer = admin.post(f"{server.url}/api/items", json=rows[i : i + 500], params={"project": name})
            assert answer.status_code == 201, answer.text


def _asked(project: str, number: int) -> dict[str, Any]:
    if project == "sounds":
        return {"question": "rate", "responses": [f"heard {number}"]}
    return {"question": "pair", "responses": [f"good {number}", f"bad {number}"]}


def _upload(admin: httpx.Client, server: Server, kind: str, data: bytes) -> str:
    media_id = hashlib.sha256(data).hexdigest()
    answer = admin.put(f"{server.url}/api/media/{media_id}", content=data, params={"kind": kind})
    assert answer.status_code == 201, answer.text
    return media_id


def _png() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(out, "PNG")
    return out.getvalue()


def _wav() -> bytes:
    """A second of silence."""
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(16000))
    return out.getvalue()


def _export(admin: httpx.Client, server: Server, project: str) -> list[dict[str, Any]]:
    text = admin.get(f"{server.url}/api/export", params={"project": project}).text
    return [json.loads(line) for line in text.splitlines()]


def _new_annotator(admin: httpx.Client, server: Server, number: int) -> str:
    answer = admin.post(f"{server.url}/api/annotators", json={"name": f"annotator {number}"})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["token"])


def _start_clients(server: Server, tokens: Sequence[str], out: Path, seed: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.e2e.feedback_clients", server.url, ",".join(tokens), str(out), str(seed)]
    return subprocess.Popen(command, cwd=Path(__file__).parents[2])


def _kill_now_and_then(
    admin: httpx.Client, server: Server, clients: Sequence[subprocess.Popen[bytes]], load: Load
) -> None:
    """Without warning, at even shares of the votes; each time it starts again on the same port."""
    for i in range(load.kills):
        until = time.monotonic() + _DEADLINE_S
        while admin.get(f"{server.url}/api/progress").json()["cast"] < load.votes * (i + 1) / (load.kills + 1):
            assert time.monotonic() < until, "the votes do not come on"
            assert all(client.poll() in (None, 0) for client in clients), "a client failed"
            time.sleep(0.2)
        server.stop(signal.SIGKILL)
        server.start()
