"""Many short questions on a page: by keys, by finger, in both languages, and what is stored."""

import re

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from mmrlhf_ray.demo.digits import digit_png
from tests.browser.conftest import TIMEOUT_MS
from tests.browser.support import Site, item, log_in, press, problems_of, ready, sends
from tests.browser.test_media import shows

PHONE = {"width": 390, "height": 844}


def many(page: Page, site: Site, kind: str = "pair") -> Locator:
    """The cards."""
    page.goto(f"{site.url}/work/many?kind={kind}")
    ready(page)
    return page.locator(".card")


def pairs(count: int) -> list[dict[str, object]]:
    return [item("pair", "good", "bad", ask=f"Number {i}?", item_id=f"pair-{i}") for i in range(count)]


def key_of(card: Locator, wanted: str) -> str:
    return ("ArrowLeft", "ArrowRight")[card.locator(".response .text").all_inner_texts().index(wanted)]


def test_keys_alone(page: Page, feedback: Site) -> None:
    feedback.add(*pairs(14), item("spans", "a b", ask="And this?"))
    page.goto(feedback.url)
    page.get_by_role("link", name="Compare two: many at a time").focus()
    press(page, "Enter")
    ready(page)
    cards = page.locator(".card")
    expect(cards).to_have_count(12)
    press(page, "Enter")
    expect(page.locator("#problem")).to_have_text("Answer one of them first, or skip it.")
    for place in range(3):
        press(page, key_of(cards.nth(place), "good"))
        expect(cards.nth(place + 1).locator("h2").first).to_be_focused()
    press(page, "k", "x", "k", "k", "ArrowDown")  # changes the third, which goes on to the fourth, and the second
    expect(page.locator("#answered")).to_have_text("3 of 12 answered")
    page.reload()
    ready(page)
    expect(page.locator("#answered")).to_have_text("3 of 12 answered")  # drafts
    cards.nth(3).locator("h2").first.focus()
    press(page, "s")
    press(page, "2")
    with page.expect_response("**/api/skip"):
        press(page, "Enter")
    expect(page.locator("#status")).to_have_text("Skipped.")
    expect(cards).to_have_count(11)
    votes = []
    page.on("request", lambda sent: votes.append(sent) if sent.url.endswith("/api/votes") else None)
    sends(page, "/work/many", lambda: press(page, "Enter"))
    expect(page.locator("#status")).to_have_text("3 saved. Which response is better?")
    assert len(votes) == 3
    expect(cards).to_have_count(10)  # 8 that were held and the last two
    rows = {row["item_id"]: row for row in feedback.export()}
    assert set(rows) == {"pair-0", "pair-1", "pair-2"}
    assert rows["pair-0"]["ranks"] == [1, 2]
    assert [rows[f"pair-{i}"]["choice"] for i in (1, 2)] == ["tie", "both_bad"]
    assert len({row["annotation_id"] for row in rows.values()}) == 3


def test_a_finger_rates_in_chinese(browser: Browser, feedback: Site) -> None:
    rows = [shows(("image", feedback.upload("image", digit_png(i)))) for i in range(3)]
    feedback.add(
        *(
            row | {"item_id": f"rate-{i}", "question": "rate", "responses": [f"It is {i}."]}
            for i, row in enumerate(rows)
        )
    )
    context = browser.new_context(viewport=PHONE, has_touch=True, is_mobile=True, locale="zh-CN", color_scheme="dark")
    context.set_default_timeout(TIMEOUT_MS)
    page = log_in(context, feedback, feedback.account("安"))
    page.get_by_role("link", name="评分：一次多题").tap()
    ready(page)
    cards = page.locator(".card")
    expect(cards).to_have_count(3)
    for card in (cards.nth(0), cards.nth(2)):
        for scale in card.locator(".scale").all():
            scale.get_by_role("radio", name="4").tap()
    expect(page.locator("#answered")).to_have_text("已答 2 / 3 题")
    assert problems_of(page) == []
    sends(page, "/work/many", page.get_by_role("button", name="保存已答的题目").tap)
    expect(page.locator("#status")).to_have_text(re.compile("已保存 2 题"))
    expect(cards).to_have_count(1)
    found = feedback.export()
    assert [[values == [4] for values in row["aspects"].values()] for row in found] == [[True] * 4] * 2
    context.close()


def test_what_others_have_answered_meanwhile_is_said(browser: Browser, page: Page, feedback: Site) -> None:
    feedback.add(*(row | {"overlap": 1} for row in pairs(2)))
    cards = many(page, feedback)
    assert feedback.admin.delete("/api/items/pair-0").status_code == 200
    for place in range(2):
        press(page, key_of(cards.nth(place), "good"))
    sends(page, "/work/many", lambda: press(page, "Enter"))
    expect(page.locator("#status")).to_have_text(re.compile("1 saved. Not saved: there is no such item"))
    assert [row["item_id"] for row in feedback.export()] == ["pair-1"]


@pytest.mark.parametrize(("scheme", "locale"), [("light", "en-GB"), ("dark", "zh-CN")])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_is_clean(browser: Browser, feedback: Site, scheme: str, locale: str, width: int) -> None:
    feedback.add(*pairs(3))
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme, locale=locale)  # type: ignore[arg-type]
    context.set_default_timeout(TIMEOUT_MS)
    page = log_in(context, feedback, feedback.account("Ann"))
    many(page, feedback)
    found = problems_of(page)
    press(page, "?")
    found += problems_of(page)
    press(page, "Escape", "s")
    assert [*found, *problems_of(page)] == []
    context.close()
