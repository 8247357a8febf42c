"""Small servers that answer as OpenAI's API does, over real HTTP."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.listening import Quiet, listening

TOKEN = "the-token"


@dataclass
class Served:
    """A model that answers `text`, after `wait_s`, with `status`."""

    text: str
    url: str = ""
    status: int = 200
    wait_s: float = 0.0
    token: str | None = None
    models: tuple[str, ...] = ("only",)
    asked: list[dict[str, Any]] = field(default_factory=list)
    """Bodies of the requests."""


@contextmanager
def serving_model(served: Served) -> Iterator[Served]:
    class Handler(Quiet):
        def do_GET(self) -> None:
            self.answer({"data": [{"id": name} for name in served.models]})

        def do_POST(self) -> None:
            served.asked.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            time.sleep(served.wait_s)
            self.answer({"choices": [{"message": {"role": "assistant", "content": served.text}}]})

        def answer(self, body: dict[str, Any]) -> None:
            wrong = served.token is not None and self.headers["authorization"] != f"Bearer {served.token}"
            data = json.dumps(body).encode()
            try:
                self.send_response(401 if wrong else served.status)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)
            except (BrokenPipeError, ConnectionResetError):  # whoever asked waits no longer
                return

    with listening(Handler) as url:
        served.url = f"{url}/v1"
        yield served
