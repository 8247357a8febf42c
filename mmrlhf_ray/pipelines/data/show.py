"""A page of rows and their media, served to this machine only or written to one file."""

import json
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

from markupsafe import Markup

from mmrlhf_ray.config.data import DataConfig
from mmrlhf_ray.data.errors import printable
from mmrlhf_ray.data.formats import Kind
from mmrlhf_ray.data.media import MediaRow
from mmrlhf_ray.data.records.quarantine import Rejected
from mmrlhf_ray.data.records.store import LoadedRow
from mmrlhf_ray.pipelines.data.rows import OpenData, open_data
from mmrlhf_ray.reports.page import inline_policy, page_environment
from mmrlhf_ray.reports.page import write_page as write_file
from mmrlhf_ray.reports.prompts import Message, data_uri, shown_messages
from mmrlhf_ray.reports.serving import Answer, page_policy, serve_pages

_HELD_BYTES = 256 << 20
_LONGEST_RAW = 4000
_PAGE = re.compile(r"/(?:page/([0-9]{1,9}))?")
_MEDIA = re.compile(r"/media/([0-9a-f]{64})")
POLICY = page_policy(media="'self'", style="'self'")
_ANSWERS = ("response", "feedback", "chosen", "rejected", "margin")


@dataclass(frozen=True)
class Shown:
    """One row as the page has it: a good one, or a bad one with the reason."""

    number: int
    row: LoadedRow | None
    bad: Rejected | None

    @property
    def messages(self) -> list[Message]:
        """(role, parts) of each message; media parts carry their media_id."""
        assert self.row is not None
        return shown_messages(self.row.record["messages"], self.row.record["media_ids"])

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
    serve_pages(partial(answer, pages), port, POLICY)


def write_page(config: DataConfig, kind: Kind | None, rows: int, path: Path) -> str:
    """Write the first page with its media inside to one file; returns what was written, in words."""
    pages = Pages(open_data(config, kind), rows)
    style = _style()
    policy = inline_policy(style)
    shown = pages.page(0)
    whole = {media["media_id"]: media for item in shown if item.row for media in item.row.media}
    uris = {media_id: data_uri(media["mime"], media["data"]) for media_id, media in whole.items()}
    text = _render(pages, 0, shown, uris.__getitem__, style=Markup(style), policy=policy)
    write_file(path, text)
    return f"{path}: {len(shown)} of {pages.data.store.rows:,} rows"


def answer(pages: Pages, path: str, query: Mapping[str, str]) -> Answer | None:
    """A page, the style sheet, or media of a page that was asked for before."""
    page, media = _PAGE.fullmatch(path), _MEDIA.fullmatch(path)
    if page is not None and int(page.group(1) or 1) in range(1, pages.count + 1):
        number = int(page.group(1) or 1) - 1
        shown = pages.page(number)
        return Answer.page(_render(pages, number, shown, lambda i: f"/media/{i}", style=None, policy=None))
    if path == "/style.css":
        return Answer.style(_style())
    found = None if media is None else pages.media(media.group(1))
    return None if found is None else Answer(found["data"], found["mime"])


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


def _judged(number: int, ranks: list[int], ratings: Mapping[str, list[Any]]) -> str:
    rank = [f"rank {ranks[number]}"] if ranks else []
    rated = [f"{aspect} {of[number]:g}" for aspect, of in ratings.items() if of[number] is not None]
    return ", ".join([f"response {number + 1}", *rank, *rated])


def _describe(value: Any) -> str:
    return f"<{len(value)} bytes>" if isinstance(value, bytes) else str(value)
