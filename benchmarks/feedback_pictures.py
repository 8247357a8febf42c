"""Pictures of the feedback pages for docs/feedback.md: `python -m benchmarks.feedback_pictures OUT`.

Needs Chromium on PATH (`apt install chromium`) and playwright, which `make setup` installs.
"""

import os
import random
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import uvicorn
from playwright.sync_api import Browser, Page, Playwright, sync_playwright
from sqlalchemy import select

from benchmarks.feedback_team import ARENA, add_battles, add_projects
from mmrlhf_ray.config import FeedbackConfig
from mmrlhf_ray.demo.feedback_items import add_demo_items
from mmrlhf_ray.feedback.app import create_app
from mmrlhf_ray.feedback.collect import queue
from mmrlhf_ray.feedback.collect.accounts import add_annotator, by_token
from mmrlhf_ray.feedback.collect.database import open_database
from mmrlhf_ray.feedback.collect.tables import COMMAND, MediaFile

BROWSER = "chromium"
WIDTHS = {1280: 860, 360: 740}
"""Width → height of the window, pixels."""
PEOPLE = ("Ada", "Ben", "Cleo")
PAGES = {
    "home": "/",
    "guide": "/guide",
    "guide-project": "/guide?project=tone",
    "votes": "/votes",
    "review": "/review",
    "admin": "/admin",
    "progress": "/admin/progress",
    "quality": "/admin/quality",
    "items": "/admin/items",
    "projects": "/projects",
    "project": "/project?name=tone",
    "arena": "/arena",
    "arena-battle": "/arena/battle?id={battle}",
    "arena-ratings": "/arena/ratings",
}
"""Name of the picture → the page's path."""
_VOTES = 20
_START_S = 30


@contextmanager
def serving(config: FeedbackConfig) -> Iterator[str]:
    """The app in a thread of this process, on a free port of this machine; gives its address."""
    server = uvicorn.Server(uvicorn.Config(create_app(config), port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until = time.monotonic() + _START_S
        while not server.started and time.monotonic() < until and thread.is_alive():
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def launch(playwright: Playwright) -> Browser:
    """The distribution's Chromium; root may run it only without its sandbox."""
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    return playwright.chromium.launch(executable_path=shutil.which(BROWSER), args=arguments)


def take_pictures(out: Path, browser: Browser, widths: Mapping[int, int] = WIDTHS) -> list[Path]:
    """PNG files `<page>-<width>.png` of every page, of every kind of question and of the dialogs; returns their paths.

    Shown is what `mmrlhf feedback serve --demo` shows, after some votes of three simulated people who answer at random.
    """
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        config = FeedbackConfig.model_validate({"data_dir": directory, "overlap": 5, "gold_share": 0.0, "arena": ARENA})
        database = open_database(config)
        token = add_demo_items(database, config)
        for number, name in enumerate(PEOPLE):
            with database.write() as session:
                who = add_annotator(session, name, "annotator", COMMAND, datetime.now(UTC))[0].id
            _vote(config, who, random.Random(number))
        with database.write() as session:
            me, now = by_token(session, token), datetime.now(UTC)
            image = session.scalars(select(MediaFile.media_id).where(MediaFile.kind == "image")).first()
            assert me is not None
            assert image is not None
            add_projects(session, list(PEOPLE), now)
            battle = add_battles(session, me.id, image, config, now)
        database.close()
        with serving(config) as address:
            return [
                path for size in widths.items() for path in _pictures_at(browser, address, token, battle, size, out)
            ]


def _pictures_at(
    browser: Browser, address: str, token: str, battle: str, size: tuple[int, int], out: Path
) -> Iterator[Path]:
    width, height = size
    context = browser.new_context(viewport={"width": width, "height": height})
    page = context.new_page()

    def picture(name: str) -> Path:
        path = out / f"{name}-{width}.png"
        page.screenshot(path=path, animations="disabled")
        return path

    page.goto(f"{address}/login")
    yield picture("login")
    page.goto(f"{address}/login#token={token}")
    page.wait_for_url(f"{address}/")
    for name, path in PAGES.items():
        page.goto(f"{address}{path.format(battle=battle)}")
        yield picture(name)
    page.goto(f"{address}/work")
    missing = set(_PREPARED)
    while missing:
        kind = question_kind(page)
        if kind in missing:
            yield from _question(page, kind, picture)
            missing.remove(kind)
        page.keyboard.press("s")
        with page.expect_response("**/work"):
            page.keyboard.press("Enter")
    page.goto(f"{address}/work/many?kind=rate")
    page.wait_for_selector("#send:enabled")
    page.keyboard.press("4")
    yield picture("many")
    page.goto(f"{address}/work?project=night")  # gives the others back, for the next width
    context.close()


def question_kind(page: Page) -> str:
    """Of the item on /work, once it can be answered."""
    page.wait_for_selector("main:not([aria-busy=true]) #send:enabled")
    return str(page.evaluate("JSON.parse(document.querySelector('#question').dataset.item).question"))


def _question(page: Page, kind: str, picture: Callable[[str], Path]) -> Iterator[Path]:
    """The question that is shown, half answered; and the dialogs of one kind."""
    page.wait_for_load_state("networkidle")
    _PREPARED[kind](page)
    yield picture(kind)
    page.keyboard.press("Escape")
    if kind == "spans":
        for key, name in (("z", "zoom"), ("?", "keys"), ("s", "skip")):
            page.keyboard.press(key)
            yield picture(name)
            page.keyboard.press("Escape")


def _prepare_pair(page: Page) -> None:
    page.keyboard.press("ArrowLeft")


def _prepare_rank(page: Page) -> None:
    for key in ("2", "1", "3"):
        page.keyboard.press(key)


def _prepare_rate(page: Page) -> None:
    for key in ("4", "5", "5"):
        page.keyboard.press(key)


def _prepare_correct(page: Page) -> None:
    text = page.input_value("#text")
    page.fill("#text", text.replace("the", "The", 1) + " .")


def _prepare_text(page: Page) -> None:
    page.fill("#text", "Right, but it does not say what it saw.")


def _prepare_spans(page: Page) -> None:
    page.keyboard.press("e")
    page.keyboard.press("Control+End")
    page.keyboard.press("Control+Shift+ArrowLeft")
    page.keyboard.press("w")


def _prepare_live(page: Page) -> None:
    page.keyboard.press(".")
    page.keyboard.press("+")
    page.keyboard.press("-")


_PREPARED: Mapping[str, Callable[[Page], None]] = {
    "pair": _prepare_pair,
    "rank": _prepare_rank,
    "rate": _prepare_rate,
    "correct": _prepare_correct,
    "demonstrate": _prepare_text,
    "spans": _prepare_spans,
    "critique": _prepare_text,
    "live": _prepare_live,
}


def _vote(config: FeedbackConfig, who: str, rng: random.Random) -> None:
    """Answers at random to what asks for a choice, a ranking or ratings; the rest is skipped."""
    database, aspects = open_database(config), [aspect.name for aspect in config.aspects]
    answers: Mapping[str, Callable[[int], dict[str, Any]]] = {
        "pair": lambda count: {"choice": rng.choice(("left", "right", "tie"))},
        "rank": lambda count: {"ranks": rng.sample(range(1, count + 1), count)},
        "rate": lambda count: {"ratings": [{name: rng.randint(1, 5) for name in aspects} for _ in range(count)]},
    }
    for number in range(_VOTES):
        now = datetime.now(UTC)
        with database.write() as session:
            leased = queue.lease_next(session, who, config, now)
            if leased is None:
                break
            if leased.item.question in answers:
                answer = answers[leased.item.question](len(leased.order_shown))
                vote = queue.NewVote(f"{who}-{number}", leased.item.id, answer, rng.randint(3000, 30000))
                queue.submit(session, who, vote, config, now)
            else:
                queue.skip(session, who, leased.item.id, "cannot_judge", "", now)
    database.close()


if __name__ == "__main__":
    if len(sys.argv) != 2 or shutil.which(BROWSER) is None:
        raise SystemExit(f"usage: python -m benchmarks.feedback_pictures OUT (with {BROWSER} on PATH)")
    with sync_playwright() as playwright:
        for picture in take_pictures(Path(sys.argv[1]), launch(playwright)):
            print(picture)
