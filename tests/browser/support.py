"""A collection to work on, and what the tests do in its pages."""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import axe_playwright_python
import httpx
from playwright.sync_api import BrowserContext, Page

from benchmarks.feedback_pictures import serving
from mmrlhf_ray.config import FeedbackConfig
from mmrlhf_ray.feedback.collect.accounts import add_annotator
from mmrlhf_ray.feedback.collect.database import open_database

Row = dict[str, Any]
WAIT_S = 20
_AXE = Path(axe_playwright_python.__file__).with_name("axe.min.js").read_text(encoding="utf-8")
_CHECKS = Path(__file__).with_name("checks.js").read_text()


def problems_of(window: Page) -> list[str]:
    """What axe and our own checks find wrong with the page, in words."""
    own: list[str] = window.evaluate(_CHECKS)
    return own + violations_of(window)


def violations_of(window: Page) -> list[str]:
    """What axe finds wrong with the page."""
    if window.evaluate("typeof window.axe") == "undefined":
        window.evaluate(_AXE)
    violations = window.evaluate("async () => (await axe.run()).violations")
    return [f"axe, {one['id']}: {node['html'][:160]}" for one in violations for node in one["nodes"][:3]]


@dataclass(frozen=True)
class Site:
    """A running app, and the API as an administrator uses it."""

    url: str
    admin: httpx.Client
    admin_token: str

    def add(self, *rows: Row) -> None:
        answer = self.admin.post("/api/items", json=rows)
        assert answer.status_code == 201, answer.text

    def upload(self, kind: str, data: bytes) -> str:
        media_id = hashlib.sha256(data).hexdigest()
        answer = self.admin.put(f"/api/media/{media_id}", content=data, params={"kind": kind})
        assert answer.status_code in (200, 201), answer.text
        return media_id

    def account(self, name: str, role: str = "annotator") -> str:
        """Its token."""
        answer = self.admin.post("/api/annotators", json={"name": name, "role": role})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["token"])

    def export(self) -> list[Row]:
        return [json.loads(line) for line in self.admin.get("/api/export").text.splitlines()]


@contextmanager
def site(directory: Path, **settings: Any) -> Iterator[Site]:
    config = FeedbackConfig(data_dir=str(directory), **settings)
    database = open_database(config)
    with database.write() as session:
        token = add_annotator(session, "boss", "admin", "command", datetime.now(UTC))[1]
    database.close()
    with serving(config) as url, httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}) as admin:
        yield Site(url, admin, token)


def item(question: str, *responses: str, ask: str = "What is it?", **more: Any) -> Row:
    return {"prompt": ask, "question": question, "responses": list(responses), "item_id": f"{question}-item"} | more


def log_in(context: BrowserContext, site: Site, token: str) -> Page:
    """By the link that `serve --demo` prints; ends at home."""
    page = context.new_page()
    page.goto(f"{site.url}/login#token={token}")
    page.wait_for_url(f"{site.url}/")
    return page


def open_work(page: Page, site: Site) -> None:
    page.goto(f"{site.url}/work")
    ready(page)


def ready(page: Page) -> None:
    """The item can be answered."""
    page.wait_for_selector("main:not([aria-busy=true]) #send:enabled")


def press(page: Page, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def sends(page: Page, path: str, act: Callable[[], None]) -> None:
    """Do something that sends to `path`, and wait for the next item, or for there being none."""
    with page.expect_response(re.compile(re.escape(path))) as sent:
        act()
    assert sent.value.ok, sent.value.text()
    page.wait_for_selector("main:not([aria-busy=true])")


def confirm(page: Page, key: str = "Enter", path: str = "/api/votes") -> None:
    sends(page, path, lambda: page.keyboard.press(key))


def shown(page: Page) -> list[str]:
    """Texts of the responses, in the order of the page."""
    return page.locator(".response .text").all_inner_texts()


def place_of(page: Page, text: str) -> int:
    """Where the page shows the response `text`, 0 = first."""
    return shown(page).index(text)


def by_response(row: Row, values: Sequence[Any]) -> dict[str, Any]:
    return dict(zip(row["responses"], values, strict=True))


def until(page: Page, expression: str) -> None:
    """Wait for a condition. Playwright's own way needs `eval`, which the pages' security policy refuses."""
    for _ in range(WAIT_S * 20):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"never true within {WAIT_S} s: {expression}")
