"""Pages for this machine only, by the standard library's server: who may ask, what browsers may load, and one answer.

Other sites can let their names point to this address, and pages show what others wrote: so a request must name this
address, and a page may load nothing from elsewhere.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from mmrlhf_ray.errors import KnownError, RunError

HOST = "127.0.0.1"
_RANGE = re.compile(r"bytes=([0-9]{1,18})-([0-9]{0,18})")


@dataclass(frozen=True)
class Answer:
    """One file as the browser gets it."""

    body: bytes
    mime: str

    @classmethod
    def page(cls, text: str) -> "Answer":
        """A page of HTML."""
        return cls(text.encode(), "text/html; charset=utf-8")

    @classmethod
    def style(cls, text: str) -> "Answer":
        """A style sheet."""
        return cls(text.encode(), "text/css; charset=utf-8")


Ask = Callable[[str, Mapping[str, str]], Answer | None]
"""(path, query) → the answer, None where there is nothing."""


def page_policy(media: str, style: str, script: str | None = None, form: str = "'none'") -> str:
    """What a page may load and from where, as the header or <meta> Content-Security-Policy has it."""
    scripts = f"script-src {script}; connect-src {script}; " if script else ""
    return (
        f"default-src 'none'; img-src {media}; media-src {media}; style-src {style}; {scripts}base-uri 'none'; "
        f"form-action {form}"
    )


def page_server(ask: Ask, port: int, policy: str) -> ThreadingHTTPServer:
    """A server on the loopback address; 0 takes a free port. Raises RunError where the port is taken."""
    try:
        return ThreadingHTTPServer((HOST, port), partial(_Handler, ask, policy))
    except OSError as error:
        raise RunError(f"port {port} cannot be used: {error.strerror}; choose another with --port") from error


def serve_pages(ask: Ask, port: int, policy: str) -> None:
    """Serve on the loopback address until Ctrl-C, and print the address. Raises as page_server()."""
    with page_server(ask, port, policy) as server:
        print(f"http://{HOST}:{server.server_port}/  (Ctrl-C ends it)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("ended")


class _Handler(BaseHTTPRequestHandler):
    """GET, nothing else."""

    server_version, sys_version = "mmrlhf", ""

    def __init__(self, ask: Ask, policy: str, *arguments: Any) -> None:
        self._ask, self._policy = ask, policy
        super().__init__(*arguments)

    def do_GET(self) -> None:
        if not self._is_ours():
            self.send_error(HTTPStatus.FORBIDDEN, "only for this machine")
            return
        asked = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(asked.query).items()}
        try:
            answer = self._ask(asked.path, query)
        except KnownError as error:
            self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR, "this cannot be shown", str(error))
            return
        if answer is None:
            self.send_error(HTTPStatus.NOT_FOUND, "nothing here; reload the page")
        else:
            self._send(answer)

    def _is_ours(self) -> bool:
        """Whether the browser asked for this address."""
        assert isinstance(self.server, ThreadingHTTPServer)
        port = self.server.server_port
        return self.headers.get("Host") in (f"{HOST}:{port}", f"localhost:{port}")

    def _send(self, answer: Answer) -> None:
        """All of it, or the part that a player asks for when someone moves to a place in a clip."""
        body, wanted = answer.body, _RANGE.fullmatch(self.headers.get("Range", ""))
        if wanted is None or int(wanted[1]) >= len(body):
            self.send_response(HTTPStatus.OK)
        else:
            first, last = int(wanted[1]), min(int(wanted[2] or len(body)), len(body) - 1)
            self.send_response(HTTPStatus.PARTIAL_CONTENT)
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(body)}")
            body = body[first : last + 1]
        self.send_header("Content-Type", answer.mime)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        self.wfile.write(body)

    def end_headers(self) -> None:
        self.send_header("Content-Security-Policy", f"{self._policy}; frame-ancestors 'none'")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cache-Control", "no-store")
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """The terminal stays free for the address."""
