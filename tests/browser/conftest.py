"""A browser for all tests; a server and a window for each."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from benchmarks.feedback_pictures import BROWSER, launch
from tests.browser.support import Site, log_in, site

WINDOW = {"width": 1280, "height": 860}
TIMEOUT_MS = 15_000


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if shutil.which(BROWSER) is None:
        pytest.skip(f"no {BROWSER} on PATH; on Debian: apt install {BROWSER}")
    with sync_playwright() as playwright:
        browser = launch(playwright)
        yield browser
        browser.close()


@pytest.fixture
def feedback(tmp_path: Path) -> Iterator[Site]:
    """A fresh server without items."""
    with site(tmp_path / "data") as running:
        yield running


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context(viewport=WINDOW)
    context.set_default_timeout(TIMEOUT_MS)
    yield context
    context.close()


@pytest.fixture
def page(context: BrowserContext, feedback: Site) -> Page:
    """Ann's window, logged in. A test fails where the page's script does."""
    page = log_in(context, feedback, feedback.account("Ann"))
    page.on("pageerror", lambda error: pytest.fail(f"the page's script failed: {error}"))
    return page
