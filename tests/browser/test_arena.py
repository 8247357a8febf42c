"""The arena in a browser: ask, wait, choose by key, mouse or finger, see the names and the ratings."""

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from mmrlhf_ray.demo.digits import digit_png
from tests.browser.conftest import TIMEOUT_MS, WINDOW
from tests.browser.support import Site, log_in, press, problems_of, site
from tests.browser.test_access import PHONE
from tests.unit.feedback.endpoints import Served, serving_model

LONG = "# A title\n\n" + "A **sentence** that goes on with $x^2$ for a while. " * 30 + "\n\n```\n" + "x" * 200 + "\n```"

NOTE_WAITING = """() => {
  const asking = document.querySelector("#asking");
  const note = () => asking.checkVisibility() && sessionStorage.setItem("waiting", asking.textContent);
  new MutationObserver(note).observe(asking, { attributes: true });
}"""
"""The page goes as soon as there are answers, too soon for a test to look at it."""


@pytest.fixture
def models() -> Iterator[list[Served]]:
    with ExitStack() as stack:
        yield [stack.enter_context(serving_model(Served(text))) for text in ("The answer is **three**.", LONG)]


@pytest.fixture
def arena(models: list[Served], tmp_path: Path) -> Iterator[Site]:
    named = [{"name": name, "base_url": m.url} for name, m in zip(("Short one", "Long one"), models, strict=True)]
    settings: dict[str, Any] = {"arena": {"models": named, "deadline_s": 20.0}}
    with site(tmp_path / "data", **settings) as running:
        yield running


def window(browser: Browser, arena: Site, **settings: Any) -> Page:
    context = browser.new_context(**settings)
    context.set_default_timeout(TIMEOUT_MS)
    page = log_in(context, arena, arena.account("Ann"))
    page.on("pageerror", lambda error: pytest.fail(f"the page's script failed: {error}"))
    return page


def test_ask_with_a_picture_choose_by_key_and_see_who_it_was(
    browser: Browser, arena: Site, models: list[Served]
) -> None:
    page = window(browser, arena, viewport=WINDOW)
    page.get_by_role("navigation").get_by_role("link", name="Arena").click()
    page.get_by_label("Your question").fill("Which digit?")
    page.get_by_label("Images, sounds or clips").set_input_files(
        {"name": "three.png", "mimeType": "image/png", "buffer": digit_png(3)}
    )
    page.wait_for_load_state()  # with its script
    page.evaluate(NOTE_WAITING)
    page.get_by_role("button", name="Ask two models").click()
    page.wait_for_url("**/arena/battle*")
    waiting = page.evaluate("sessionStorage.getItem('waiting')")
    assert waiting == "Both models are answering, which takes 20 s at most …"
    expect(page.get_by_role("button", name="Enlarge Image 1 of 1")).to_be_visible()
    expect(page.locator("main")).not_to_contain_text("Short one")
    texts = page.locator(".response .text").all_inner_texts()
    place = next(number for number, text in enumerate(texts) if "three" in text)
    press(page, ("ArrowLeft", "ArrowRight")[place])
    expect(page.get_by_role("heading", level=1)).to_have_text("Who answered")
    expect(page.get_by_role("article", name="Short one")).to_contain_text("The answer is three.")
    expect(page.get_by_role("article", name="Short one")).to_have_class(re.compile("good"))
    page.reload()
    expect(page.get_by_role("article", name="Long one")).to_be_visible()
    expect(page.get_by_role("main").get_by_role("link", name="Ratings")).to_have_attribute("href", "/arena/ratings")
    page.goto(f"{arena.url}/arena/ratings")
    expect(page.get_by_role("row", name="Short one not yet")).to_be_visible()
    expect(page.locator("main")).to_contain_text("1 vote in the arena.")
    (row,) = arena.export()
    assert row["sources"][row["ranks"].index(1)] == "Short one"


def test_a_finger_votes_in_chinese(browser: Browser, arena: Site) -> None:
    page = window(browser, arena, viewport=PHONE, has_touch=True, is_mobile=True, locale="zh-CN")
    page.goto(f"{arena.url}/arena")
    page.get_by_label("您的问题").fill("这是几？")
    page.get_by_role("button", name="向两个模型提问").tap()
    page.get_by_role("button", name="都不好").tap()
    expect(page.get_by_text("您认为两个都不好。")).to_be_visible()
    page.get_by_role("link", name="再问一个问题").tap()
    expect(page.get_by_label("您的问题")).to_be_visible()
    assert arena.export()[0]["choice"] == "both_bad"


def test_a_model_that_fails_is_said_and_the_question_is_kept(
    browser: Browser, arena: Site, models: list[Served]
) -> None:
    models[1].status = 500
    page = window(browser, arena, viewport=WINDOW)
    page.goto(f"{arena.url}/arena")
    page.get_by_label("Your question").fill("Which digit?")
    press(page, "Control+Enter")
    expect(page.get_by_role("alert")).to_have_text("no answer from Long one, so there is nothing to compare; ask again")
    models[1].status = 200
    expect(page.get_by_label("Your question")).to_have_value("Which digit?")
    page.get_by_role("button", name="Ask two models").click()
    page.wait_for_url("**/arena/battle*")
    assert arena.export() == []


@pytest.mark.parametrize(("scheme", "locale"), [("light", "en-GB"), ("dark", "zh-CN")])
@pytest.mark.parametrize("viewport", [WINDOW, PHONE], ids=["desktop", "phone"])
def test_names_structure_contrast_and_width(
    browser: Browser, arena: Site, viewport: dict[str, int], scheme: str, locale: str
) -> None:
    page = window(browser, arena, viewport=viewport, color_scheme=scheme, locale=locale)
    found = {}

    def check(name: str) -> None:
        problems = problems_of(page)
        if problems:
            found[name] = problems

    for choice in ("left", "right", "tie"):
        page.goto(f"{arena.url}/arena")
        check("ask")
        page.locator("#text").fill("Which digit?")
        page.locator("button.main").click()
        page.wait_for_url("**/arena/battle*")
        check("battle")
        page.locator(f"[value={choice}]").click()
        page.wait_for_selector("#again")
        check("named")
    page.goto(f"{arena.url}/arena/ratings")
    check("ratings")
    assert found == {}
