"""Simulated annotators: `python -m tests.e2e.feedback_clients URL TOKENS OUT SEED`, one thread per token.

Each asks for items and votes until there is nothing left, and goes on when the server dies and comes back. OUT gets a
line of JSON per acknowledged vote.
"""

import json
import random
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import httpx

PATIENCE_S = 180
REPEATS = 0.03
"""Share of votes that are sent again after they were acknowledged."""


def annotate(url: str, token: str, out: list[dict[str, Any]], seed: int) -> None:
    """One annotator, who likes responses that begin with `good`, and points at a place where there is one."""
    rng = random.Random(seed)
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=30) as client:
        while True:
            leased, _ = send(client, "/api/lease", None)
            if leased.status_code == 204:
                return
            item = leased.json()
            vote = {
                "vote_id": str(uuid.UUID(int=rng.getrandbits(128), version=4)),
                "item_id": item["item_id"],
                "answer": answer_to(item, rng),
                "milliseconds": rng.randrange(500, 60_000),
            }
            answer, seconds = send(client, "/api/votes", vote)
            assert answer.status_code in (200, 201), answer.text
            if rng.random() < REPEATS:
                again, _ = send(client, "/api/votes", vote)
                assert (again.status_code, again.json()) == (200, answer.json()), again.text
            out.append(vote | {"status": answer.status_code, "seconds": seconds})


def answer_to(item: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """A choice or a rating, with a box in the picture or a range of the sound."""
    places = [place(medium["kind"], rng) for medium in item["media"]]
    said: dict[str, Any] = {"regions": places} if places else {}
    if item["question"] == "rate":
        aspects = [aspect["name"] for aspect in item["aspects"]]
        return said | {"ratings": [{name: rng.randint(1, 5) for name in aspects} for _ in item["responses"]]}
    better = [text.startswith("good") for text in item["responses"]].index(True)
    return said | {"choice": ("left", "right")[better]}


def place(kind: str, rng: random.Random) -> dict[str, Any]:
    """In the first medium."""
    start, size = rng.randint(0, 50) / 100, rng.randint(1, 49) / 100
    if kind == "image":
        return {"kind": "box", "index": 0, "extent": [start, start, size, size]}
    return {"kind": "range", "index": 0, "extent": [start, start + size]}


def send(client: httpx.Client, path: str, body: Any) -> tuple[httpx.Response, float]:
    """(answer, seconds of the request that was answered); the same request again while nobody answers."""
    until, pause = time.monotonic() + PATIENCE_S, 0.05
    while True:
        start = time.monotonic()
        try:
            answer = client.post(path, json=body)
        except httpx.TransportError:
            if time.monotonic() > until:
                raise
            time.sleep(pause)
            pause = min(2 * pause, 0.5)
            continue
        assert answer.status_code < 500, answer.text
        return answer, time.monotonic() - start


def main(url: str, tokens: str, out: str, seed: str) -> None:
    names = tokens.split(",")
    lists: list[list[dict[str, Any]]] = [[] for _ in names]
    failed: list[str] = []

    def run(i: int) -> None:
        try:
            annotate(url, names[i], lists[i], int(seed) * 1000 + i)
        except (AssertionError, httpx.HTTPError) as error:
            failed.append(f"annotator {i}: {error!r}")

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(names))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    Path(out).write_text("".join(json.dumps(vote) + "\n" for votes in lists for vote in votes))
    if failed:
        sys.exit("\n".join(failed))


if __name__ == "__main__":
    main(*sys.argv[1:])
