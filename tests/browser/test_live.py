"""Keys that are pressed while a clip plays, by keyboard and by finger, and what the export then says."""

import pytest
from playwright.sync_api import Browser, Page, expect

from mmrlhf_ray.demo.clips import clip_webm
from mmrlhf_ray.demo.digits import digit_png
from tests.browser.conftest import TIMEOUT_MS
from tests.browser.support import Row, Site, confirm, log_in, open_work, press, sends, until
from tests.browser.test_access import PHONE
from tests.browser.test_media import shows

PLAYED = "document.querySelector('video').currentTime"


@pytest.fixture
def clip(feedback: Site) -> None:
    """A question about a clip beside a picture."""
    row = shows(
        ("image", feedback.upload("image", digit_png(0))),
        ("video", feedback.upload("video", clip_webm(0, "left"))),
    )
    feedback.add(row | {"question": "live", "responses": []})


def ranges(feedback: Site) -> list[Row]:
    (row,) = feedback.export()
    assert row["kind"] == "live"
    found: list[Row] = row["regions"]
    return found


def test_keys_while_it_plays(page: Page, feedback: Site, clip: None) -> None:
    open_work(page, feedback)
    until(page, "document.querySelector('video').duration > 0")
    press(page, "+")
    expect(page.locator("#status")).to_have_text("Play it first.")
    press(page, "Enter")
    expect(page.locator("#problem")).to_have_text("Press + or − while it plays, or skip the item.")
    page.locator(".speed").select_option("0.25")
    page.locator("h1").focus()
    press(page, "p")
    until(page, f"{PLAYED} > 0.3")
    press(page, "+")
    until(page, f"{PLAYED} > 0.5")
    press(page, "-")
    press(page, "+")
    press(page, "Backspace")
    entries = page.locator("#presses li")
    expect(entries).to_have_count(2)
    expect(entries.nth(0)).to_contain_text("good at 0.")
    expect(entries.nth(1)).to_contain_text("bad at 0.")
    page.reload()
    expect(entries).to_have_count(2)  # a draft
    confirm(page)
    good, bad = ranges(feedback)
    assert [r["aspect"] for r in (good, bad)] == ["good", "bad"]
    assert {(r["kind"], r["index"]) for r in (good, bad)} == {("range", 1)}
    assert good["extent"][0] == 0.0
    assert 0.1 < good["extent"][1] < bad["extent"][1]


def test_by_finger_and_in_chinese(browser: Browser, feedback: Site, clip: None) -> None:
    context = browser.new_context(viewport=PHONE, has_touch=True, locale="zh-CN")
    context.set_default_timeout(TIMEOUT_MS)
    page = log_in(context, feedback, feedback.account("安"))
    open_work(page, feedback)
    until(page, "document.querySelector('video').duration > 0")
    page.evaluate("document.querySelector('video').currentTime = 0.6")
    until(page, f"{PLAYED} > 0.5")
    page.get_by_role("button", name="此刻差").tap()
    page.get_by_role("button", name="此刻好").tap()
    expect(page.locator("#presses li")).to_have_count(2)
    page.get_by_role("button", name="删除").first.tap()
    expect(page.locator("#presses li")).to_contain_text("第 0.60 秒：好")
    sends(page, "/api/votes", page.locator("#send").tap)
    (good,) = ranges(feedback)
    assert (good["aspect"], good["extent"]) == ("good", [0.0, pytest.approx(0.4)])
    context.close()
