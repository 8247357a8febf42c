"""Real HTTP servers on this machine."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.listening import Quiet, listening


@dataclass(frozen=True)
class Request:
    path: str
    headers: Mapping[str, str]
    body: Any


@dataclass(frozen=True)
class Answer:
    status: int = 200
    body: Any = None
    """Sent as JSON; bytes as they are."""
    headers: Mapping[str, str] = field(default_factory=dict)
    trickle: bool = False
    """Send the body byte by byte and never come to its end."""


HANG = Answer(status=0)
"""Keep the connection open and say nothing."""


@dataclass(frozen=True)
class Server:
    url: str
    requests: list[Request]


@contextmanager
def serve(answer: Callable[[Request], Answer]) -> Iterator[Server]:
    """A server that answers POST requests, several at a time; `answer` runs under a lock."""
    requests: list[Request] = []
    lock, over = threading.Lock(), threading.Event()

    class Handler(Quiet):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            request = Request(self.path, dict(self.headers), body)
            with lock:
                requests.append(request)
                given = answer(request)
            if given is HANG:
                over.wait()
                self.close_connection = True
                return
            self._send(given)

        def _send(self, given: Answer) -> None:
            content = given.body if isinstance(given.body, bytes) else json.dumps(given.body).encode()
            self.send_response(given.status)
            for name, value in {"Content-Length": str(len(content) + 1000 * given.trickle), **given.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)
            while given.trickle and not over.wait(0.05):
                try:
                    self.wfile.write(b" ")
                except OSError:  # nobody listens any more
                    break

    with listening(Handler) as url:
        try:
            yield Server(url, requests)
        finally:
            over.set()
