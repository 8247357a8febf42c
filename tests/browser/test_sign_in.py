"""Signing in with a provider, in a browser."""

from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from playwright.sync_api import Browser, expect

from tests.browser.conftest import TIMEOUT_MS
from tests.browser.support import problems_of, site
from tests.unit.feedback.oidc_provider import CLIENT, SECRET, provider


@pytest.mark.parametrize(
    ("scheme", "locale", "width", "welcome"),
    [("light", "en-GB", 1280, "Hello, Zoë"), ("dark", "zh-CN", 390, "Zoë，您好")],
)
def test_its_pages_are_clean_and_end_at_home(
    browser: Browser, tmp_path: Path, scheme: str, locale: str, width: int, welcome: str
) -> None:
    with provider() as known:
        oidc = {"issuer": known.issuer, "client_id": CLIENT, "client_secret": SECRET, "label": "Example ID"}
        oidc |= {"redirect_url": "http://127.0.0.1/login/oidc/callback", "default_role": "annotator"}
        with site(tmp_path, oidc=oidc) as running:
            context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme, locale=locale)  # type: ignore[arg-type]
            context.set_default_timeout(TIMEOUT_MS)
            window = context.new_page()
            window.goto(f"{running.url}/login")
            assert problems_of(window) == []
            there = context.request.get(f"{running.url}/login/oidc", max_redirects=0).headers["location"]
            back = urlsplit(httpx.get(there).headers["location"])  # without the port, which was not known before
            context.route(f"{running.url}/", lambda route: route.abort("aborted"))  # or the page is gone at once
            window.goto(f"{running.url}{back.path}?{back.query}")
            assert problems_of(window) == []
            context.unroute_all()
            window.locator("main .button.main").click()
            expect(window.get_by_role("heading", level=1)).to_have_text(welcome)
            context.close()
