"""Markdown and formulas as people see them, the switch to what was typed, and hostile text."""

from playwright.sync_api import Browser, Page, expect

from tests.browser.support import Site, confirm, item, log_in, open_work, press, problems_of, ready
from tests.browser.test_access import PHONE
from tests.unit.feedback.test_formatted import HOSTILE

MEANT = (
    "# Sum\n\nOf **two**, $x_1 + x_2$:\n\n\\[ \\frac{a}{b} \\]\n\n| a | b |\n|---|--:|\n| 1 | 2 |\n\n```py\nx = 1\n```"
)
WIDE = "$$" + "+".join(f"x_{{{n}}}" for n in range(200)) + "$$\n\n**" + "W" * 300 + "**"


def test_text_is_shown_as_meant_and_as_typed(page: Page, feedback: Site) -> None:
    feedback.add(*(item("pair", MEANT, "plain", ask=MEANT, item_id=f"pair-{n}") for n in range(1)))
    feedback.add(item("critique", MEANT, ask="next"))
    open_work(page, feedback)
    expect(page.locator(".response strong")).to_have_text("two")
    expect(page.locator(".response math")).to_have_count(2)
    expect(page.locator(".response td")).to_have_text(["1", "2"])
    expect(page.locator(".prompt pre code")).to_have_text("x = 1\n")
    button = page.get_by_role("button", name="Plain text")
    press(page, "t")
    assert MEANT in page.locator(".response .text").all_inner_texts()
    expect(button).to_have_attribute("aria-pressed", "true")
    press(page, "ArrowDown")
    confirm(page)
    ready(page)
    assert page.locator(".response .text").inner_text() == MEANT  # the next item is in the same way
    button.click()
    expect(page.locator(".response strong")).to_have_text("two")
    press(page, "e")


def test_a_page_without_form_has_no_switch(page: Page, feedback: Site) -> None:
    feedback.add(item("pair", "a", "b"))
    open_work(page, feedback)
    expect(page.get_by_role("button", name="Plain text")).to_be_hidden()


def test_hostile_text_does_nothing(page: Page, feedback: Site) -> None:
    refused: list[str] = []
    page.on("console", lambda message: refused.append(message.text) if message.type == "error" else None)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    feedback.add(item("pair", *HOSTILE[:1], "\n\n".join(HOSTILE), ask="\n\n".join(HOSTILE)))
    open_work(page, feedback)
    assert page.locator(".text script, .text svg, .text img, .text a, .text [style], .text [onload]").count() == 0
    page.locator(".formula, math").first.hover()
    assert refused == []
    assert [url for url in asked if not url.startswith(feedback.url)] == []


def test_wide_text_stays_within_a_phone(browser: Browser, feedback: Site) -> None:
    feedback.add(item("pair", WIDE, MEANT, ask=WIDE))
    for scheme in ("light", "dark"):
        context = browser.new_context(viewport=PHONE, color_scheme=scheme)
        window = log_in(context, feedback, feedback.account(scheme))
        open_work(window, feedback)
        assert problems_of(window) == []
        context.close()
