"""What models and people wrote is text, whatever it looks like; and the pages load nothing from elsewhere."""

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from tests.browser.support import Site, confirm, item, log_in, open_work, press, ready

EVIL = (
    "<script>window.stolen = 1</script>",
    '"><img src=x onerror="window.stolen = 1">',
    "</textarea></title><svg onload=window.stolen=1>",
    "{{ 7 * 7 }} ${7*7} javascript:alert(1) &lt;b&gt; \" ' onmouseover=window.stolen=1",
)
TEXT = "\n".join(EVIL)


def untouched(page: Page) -> None:
    assert page.evaluate("window.stolen") is None
    assert page.locator("main script, main svg, main img[src=x]").count() == 0


@pytest.mark.parametrize("kind", ["pair", "rank", "rate", "correct", "spans", "critique"])
def test_model_text_is_shown_and_never_run(page: Page, feedback: Site, kind: str) -> None:
    others = {"pair": 1, "rank": 1}.get(kind, 0)
    feedback.add(item(kind, TEXT, *["harmless"] * others, ask=TEXT))
    open_work(page, feedback)
    assert page.locator(".prompt .text").inner_text() == TEXT
    if kind == "correct":
        assert page.input_value("#text") == TEXT
        page.locator("#text").press("End")
        page.keyboard.type(EVIL[0])
        expect(page.locator("#changes ins").first).to_be_visible()
    else:
        assert TEXT in page.locator(".response .text").all_inner_texts()
    untouched(page)


def test_marked_text_is_never_run(page: Page, feedback: Site) -> None:
    feedback.add(item("spans", TEXT))
    open_work(page, feedback)
    press(page, "e", "Control+a", "w")
    expect(page.locator("mark")).to_have_text(TEXT)
    untouched(page)
    confirm(page)
    assert feedback.export()[0]["spans"] == [[0, len(TEXT), ""]]


def test_what_people_wrote_is_never_run(page: Page, feedback: Site, context: BrowserContext) -> None:
    names = ["<script>window.stolen=1</script>", "<img src=x onerror=window.stolen=1>"]
    feedback.add(item("pair", "a", "b"))
    for name, wanted in zip(names, ("a", "b"), strict=True):
        window = log_in(context, feedback, feedback.account(name))
        open_work(window, feedback)
        choice = window.locator(".response .text").all_inner_texts().index(wanted)
        press(window, ("ArrowLeft", "ArrowRight")[choice], "c")
        window.keyboard.type(EVIL[1])
        confirm(window, "Control+Enter")
        window.close()
    boss = log_in(context, feedback, feedback.admin_token)
    for path in ("/review", "/admin", "/admin/quality"):
        boss.goto(feedback.url + path)
        expect(boss.locator("main")).to_contain_text(names[0])
        untouched(boss)
    expect(boss.locator("main")).to_contain_text(names[1])


def test_nothing_comes_from_elsewhere_and_nothing_is_inline(page: Page, feedback: Site) -> None:
    asked: list[str] = []
    refused: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: refused.append(message.text) if message.type == "error" else None)
    feedback.add(item("pair", "a", "b"), item("rate", "a", ask="And this?"))
    for path in ("/", "/guide", "/work"):
        page.goto(feedback.url + path)
        assert page.locator("script:not([src]), style, [style], [onclick], [onload]").count() == 0
    ready(page)
    press(page, "ArrowDown")
    confirm(page)
    assert {url for url in asked if not url.startswith(feedback.url + "/")} == set()
    assert refused == []


def test_the_token_of_a_link_is_not_sent_in_any_address(context: BrowserContext, feedback: Site) -> None:
    token, asked = feedback.account("Ben"), []
    context.on("request", lambda request: asked.append(request.url))
    window = log_in(context, feedback, token)
    assert len(asked) > 1
    assert not any(token in url.partition("#")[0] for url in asked)
    assert token not in window.evaluate("location.href + JSON.stringify(history.state)")
    window.go_back()
    assert token not in window.url


def test_the_page_does_not_tell_who_wrote_a_response(page: Page, feedback: Site) -> None:
    feedback.add(item("pair", "a", "b") | {"responses": [{"text": t, "source": f"model-{t}"} for t in "ab"]})
    open_work(page, feedback)
    html = page.content()
    assert "model-a" not in html
    assert "order_shown" not in html
