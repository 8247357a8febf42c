"""A page of rows and their media, served to this machine only or written to one file."""

import base64
import hashlib
import json
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import urlsplit

from markupsafe import Markup

from mmrlhf_ray.config.data import DataConfig
from mmrlhf_ray.data.errors import printable
from mmrlhf_ray.data.formats import Kind
from mmrlhf_ray.data.media import MediaRow
from mmrlhf_ray.data.records.quarantine import Rejected
from mmrlhf_ray.data.records.store import LoadedRow
from mmrlhf_ray.errors import RunError
from mmrlhf_ray.pipelines.data.rows import OpenData, open_data
from mmrlhf_ray.reports.page import page_environment

HOST = "127.0.0.1"
_HELD_BYTES = 256 << 20
_LONGEST_RAW = 4000
_PAGE = re.compile(r"/(?:page/([0-9]{1,9}))?")
_MEDIA = re.compile(r"/media/([0-9a-f]{64})")
_POLICY = (
    "default-src 'none'; img-src {media}; media-src {media}; style-src {style}; base-uri 'none'; form-action 'none'"
)
_ANSWERS = ("response", "feedback", "chosen", "rejected", "margin")


@dataclass(frozen=True)
class Shown:
    """One row as the page has it: a good one, or a bad one with the reason."""

    number: int
    row: LoadedRow | None
    bad: Rejected | None

    @property
    def messages(self) -> list[tuple[str, list[dict[str, Any]]]]:
        """(role, parts) of each message; media parts carry their media_id."""
        assert self.row is not None
        ids = iter(self.row.record["media_ids"])
        return [
            (m["role"], [_part(part, ids) for part in _parts(m["content"])])
            for m in json.loads(self.row.record["messages"])
        ]

    @property
    def answers(self) -> list[tuple[str, Any]]:
        """(name, what) in order; a ranking's responses with their rank and ratings."""
        assert self.row is not None
        record = self.row.record
        if "responses" not in record:
            return [(name, record[name]) for name in _ANSWERS if record.get(name) not in (None, 0.0)]
        ratings: Mapping[str, list[Any]] = json.loads(record["aspects"])
        return [(_judged(number, record["ranks"], ratings), text) for number, text in enumerate(record["responses"])]

    @property
    def extras(self) -> str:
        assert self.row is not None
        extras = json.loads(self.row.record["extras"])
        return json.dumps(extras, ensure_ascii=False, indent=1) if extras else ""

    @property
    def raw(self) -> str:
        """The bad row as it was read, cut where it is long."""
        assert self.bad is not None
        text = json.dumps(self.bad.original, ensure_ascii=False, indent=1, default=_describe)
        return text if len(text) <= _LONGEST_RAW else text[:_LONGEST_RAW] + "…"


@dataclass
class Pages:
    """Rows by page, and the media of the pages asked for last. For several threads."""

    data: OpenData
    rows: int
    held: OrderedDict[str, MediaRow] = field(default_factory=OrderedDict)
    lock: Lock = field(default_factory=Lock)

    @property
    def count(self) -> int:
        return -(-self.data.store.rows // self.rows)

    def page(self, number: int) -> list[Shown]:
        """The rows of page `number`, from 0; their media are held."""
        first = number * self.rows
        shown = []
        with self.lock:
            for position in range(first, min(first + self.rows, self.data.store.rows)):
                loaded = self.data.store.load(position)
                if isinstance(loaded, Rejected):
                    shown.append(Shown(position, None, loaded))
                    continue
                shown.append(Shown(position, loaded, None))
                for media in loaded.media:
                    self.held[media["media_id"]] = media
                    self.held.move_to_end(media["media_id"])
            while len(self.held) > 1 and sum(len(media["data"]) for media in self.held.values()) > _HELD_BYTES:
                self.held.popitem(last=False)
        return shown

    def media(self, media_id: str) -> MediaRow | None:
        with self.lock:
            return self.held.get(media_id)


def serve(config: DataConfig, kind: Kind | None, rows: int, port: int) -> None:
    """Serve the pages on the loopback address until Ctrl-C. Raises RunError where the port is taken."""
    pages = Pages(open_data(config, kind), rows)
    try:
        server = ThreadingHTTPServer((HOST, port), partial(_Handler, pages))
    except OSError as error:
        raise RunError(f"port {port} cannot be used: {error.strerror}; choose another with --port") from error
    with server:
        print(f"http://{HOST}:{server.server_port}/  (Ctrl-C ends it)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("ended")


def write_page(config: DataConfig, kind: Kind | None, rows: int, path: Path) -> str:
    """Write the first page with its media inside to one file; returns what was written, in words."""
    pages = Pages(open_data(config, kind), rows)
    style = _style()
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = _POLICY.format(media="data:", style=f"'sha256-{digest}'")
    shown = pages.page(0)
    whole = {media["media_id"]: media for item in shown if item.row for media in item.row.media}
    text = _render(pages, 0, shown, lambda media_id: _data_uri(whole[media_id]), style=Markup(style), policy=policy)
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(path)
    return f"{path}: {len(shown)} of {pages.data.store.rows:,} rows"


class _Handler(BaseHTTPRequestHandler):
    """GET of pages, media and the style sheet, nothing else."""

    server_version, sys_version = "mmrlhf", ""

    def __init__(self, pages: Pages, *arguments: Any) -> None:
        self._pages = pages
        super().__init__(*arguments)

    def do_GET(self) -> None:
        if not self._is_ours():
            self.send_error(HTTPStatus.FORBIDDEN, "only for this machine")
            return
        path = urlsplit(self.path).path
        page, media = _PAGE.fullmatch(path), _MEDIA.fullmatch(path)
        if page is not None and int(page.group(1) or 1) in range(1, self._pages.count + 1):
            number = int(page.group(1) or 1) - 1
            shown = self._pages.page(number)
            text = _render(self._pages, number, shown, lambda media_id: f"/media/{media_id}", style=None, policy=None)
            self._answer(text.encode(), "text/html; charset=utf-8")
        elif path == "/style.css":
            self._answer(_style().encode(), "text/css; charset=utf-8")
        elif media is not None and (found := self._pages.media(media.group(1))) is not None:
            self._answer(found["data"], found["mime"])
        else:
            self.send_error(HTTPStatus.NOT_FOUND, "nothing here; reload the page")

    def _is_ours(self) -> bool:
        """Whether the browser asked for this address: other sites may let their names point to it."""
        assert isinstance(self.server, ThreadingHTTPServer)
        port = self.server.server_port
        return self.headers.get("Host") in (f"{HOST}:{port}", f"localhost:{port}")

    def _answer(self, body: bytes, kind: str) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def end_headers(self) -> None:
        policy = _POLICY.format(media="'self'", style="'self'") + "; frame-ancestors 'none'"
        self.send_header("Content-Security-Policy", policy)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cache-Control", "no-store")
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """The terminal stays free for the address."""


def _render(
    pages: Pages,
    number: int,
    shown: list[Shown],
    address: Callable[[str], str],
    *,
    style: Markup | None,
    policy: str | None,
) -> str:
    environment = page_environment("mmrlhf_ray.pipelines.data")
    page = environment.get_template("show.html.j2").render(
        title=", ".join(pages.data.source.files[:1]),
        form=pages.data.source.form.name,
        kind=pages.data.kind.lower(),
        total=pages.data.store.rows,
        page=number + 1,
        pages=pages.count,
        shown=shown,
        address=address,
        style=style,
        policy=policy,
    )
    return printable(page)


def _style() -> str:
    return Path(__file__).with_name("templates").joinpath("show.css").read_text(encoding="utf-8")


def _data_uri(media: MediaRow) -> str:
    return f"data:{media['mime']};base64,{base64.b64encode(media['data']).decode()}"


def _parts(content: str | list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _part(part: Mapping[str, Any], ids: Any) -> dict[str, Any]:
    return dict(part) if part["type"] == "text" else {"type": part["type"], "media_id": next(ids)}


def _judged(number: int, ranks: list[int], ratings: Mapping[str, list[Any]]) -> str:
    rank = [f"rank {ranks[number]}"] if ranks else []
    rated = [f"{aspect} {of[number]:g}" for aspect, of in ratings.items() if of[number] is not None]
    return ", ".join([f"response {number + 1}", *rank, *rated])


def _describe(value: Any) -> str:
    return f"<{len(value)} bytes>" if isinstance(value, bytes) else str(value)
