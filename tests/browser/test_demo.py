"""As a new user would: `mmrlhf feedback serve --demo`, one click, and the items are there. And pictures for docs/."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, BrowserContext

from benchmarks.feedback_pictures import PAGES, WIDTHS, question_kind, take_pictures
from tests.browser.support import press, ready, sends, until

KINDS = {"pair", "rank", "rate", "correct", "demonstrate", "spans", "critique", "live"}
ANSWERS = {
    "pair": ("ArrowLeft",),
    "rank": ("1", "2", "3", "4"),
    "rate": ("5", "4", "3", "2"),
    "correct": ("e", "Control+End", "Space", "!"),
    "demonstrate": ("e", "7"),
    "spans": ("e", "Control+Home", "Control+Shift+ArrowRight", "w"),
    "critique": ("e", "o", "k"),
    "live": ("p", "+"),
}


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """The address that the command prints."""
    settings = ["--set", f"data_dir={tmp_path / 'data'}", "--set", "gold_share=0"]
    command = [sys.executable, "-m", "mmrlhf_ray.cli", "feedback", "serve", "--demo", "--port", "0", *settings]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        try:
            lines = iter(process.stdout.readline, "")
            yield next(found[1] for line in lines if (found := re.search(r"open (\S+/login#token=\S+)", line)))
        finally:
            process.terminate()
            process.wait(30)


def test_the_demo_opens_with_items_of_every_kind(served: str, context: BrowserContext) -> None:
    page = context.new_page()
    page.goto(served)
    page.get_by_role("link", name="Start").click()
    answered: set[str] = set()
    played: set[str] = set()
    while answered != KINDS or played != {"audio", "video"}:
        kind = question_kind(page)
        for medium in ("audio", "video"):
            if page.locator(f".media {medium}").count() == 1 and medium not in played:
                press(page, "p")
                until(page, f"document.querySelector('.media {medium}').currentTime > 0")
                played.add(medium)
        press(page, *ANSWERS[kind])
        sends(page, "/api/votes", lambda: page.keyboard.press("Control+Enter"))
        ready(page)
        answered.add(kind)
    url = served.partition("/login")[0]
    with page.expect_download() as download:
        page.goto(f"{url}/admin")
        page.get_by_role("link", name="Annotations (JSON lines)").click()
    rows = [json.loads(line) for line in download.value.path().read_text().splitlines()]
    assert {row["kind"] for row in rows} == KINDS
    for row in rows:
        if row["kind"] == "pair":
            assert row["ranks"].index(1) == row["order_shown"][0]  # the one on the left


def test_a_second_start_has_the_same_items_and_the_votes(tmp_path: Path) -> None:
    from mmrlhf_ray.config import FeedbackConfig
    from mmrlhf_ray.demo.feedback_items import GOLD_ITEMS, ROUNDS, add_demo_items
    from mmrlhf_ray.feedback.collect.accounts import by_token
    from mmrlhf_ray.feedback.collect.database import open_database
    from mmrlhf_ray.feedback.collect.tables import Item

    config = FeedbackConfig(data_dir=str(tmp_path))
    database = open_database(config)
    tokens = [add_demo_items(database, config) for _ in range(2)]
    with database.read() as session:
        assert session.query(Item).count() == ROUNDS * len(KINDS) + GOLD_ITEMS
        assert [by_token(session, token) is not None for token in tokens] == [False, True]
    database.close()


def test_pictures_of_every_page(browser: Browser, tmp_path: Path) -> None:
    names = {"login", "many", "zoom", "keys", "skip"} | set(PAGES) | KINDS
    pictures = take_pictures(tmp_path, browser)
    assert {path.name for path in pictures} == {f"{name}-{width}.png" for name in names for width in WIDTHS}
    for path in pictures:
        with Image.open(path) as picture:
            assert picture.size == (int(path.stem.rpartition("-")[2]), WIDTHS[picture.width])
            colors = picture.convert("RGB").getcolors(maxcolors=1 << 24)
        assert colors is not None
        assert max(count for count, _ in colors) < 0.97 * picture.width * picture.height, path.name
