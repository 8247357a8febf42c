"""Without a mouse, on a phone, with a screen reader, in the dark."""

from collections.abc import Iterator
from uuid import uuid4

import pytest
from playwright.sync_api import Browser, BrowserContext, Page

from benchmarks.feedback_pictures import question_kind
from mmrlhf_ray.demo.feedback_items import demo_items
from tests.browser.conftest import TIMEOUT_MS
from tests.browser.support import Site, item, log_in, press, problems_of, site

PHONE = {"width": 360, "height": 740}
KINDS = ("pair", "rank", "rate", "correct", "demonstrate", "spans", "critique", "live")
LONG = "Donaudampfschifffahrtsgesellschaft" * 8 + "\n" + "https://example.org/" + "x" * 200


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The demo's items, some with long words, votes that disagree, and every kind of account."""
    with site(tmp_path_factory.mktemp("busy"), overlap=9, gold_share=0.0) as running:
        rows, media = demo_items(seed=3)
        for kind, data in media.values():
            running.upload(kind, data)
        running.add(*rows[: 2 * len(KINDS)])
        running.add(item("pair", "good " + LONG, "bad", item_id="disputed", ask=LONG, priority=9.0))
        for name in ("Ann", "Ben"):
            bearer = {"Authorization": f"Bearer {running.account(name)}"}
            leased = running.admin.post("/api/lease", headers=bearer).json()
            side = "left" if (leased["order_shown"][0] == 0) == (name == "Ann") else "right"
            vote = {"vote_id": str(uuid4()), "item_id": "disputed", "answer": {"choice": side}}
            assert running.admin.post("/api/votes", json=vote, headers=bearer).status_code == 201
        yield running


def windows(browser: Browser, busy: Site, **settings: object) -> Iterator[tuple[str, Page]]:
    """(name, window) of every page and every kind of question."""
    context = browser.new_context(**settings)
    context.set_default_timeout(TIMEOUT_MS)
    window = context.new_page()
    window.goto(f"{busy.url}/login")
    yield "login", window
    window.close()
    window = log_in(context, busy, busy.account(f"admin {uuid4()}", "admin"))
    for path in (
        "/",
        "/guide",
        "/review",
        "/admin",
        "/admin/quality",
        "/admin/progress",
        "/admin/items",
        "/admin/item?id=disputed",
        "/votes",
    ):
        window.goto(busy.url + path)
        yield path, window
    window.goto(f"{busy.url}/work")
    seen = set()
    while seen != set(KINDS):
        kind = question_kind(window)
        if kind not in seen:
            yield kind, window
        seen.add(kind)
        press(window, "Escape", "s")
        with window.expect_response("**/work"):
            press(window, "Enter")
    context.close()


@pytest.mark.parametrize(("scheme", "locale"), [("light", "en-GB"), ("dark", "zh-CN")])
@pytest.mark.parametrize("viewport", [{"width": 1280, "height": 860}, PHONE], ids=["desktop", "phone"])
def test_names_structure_contrast_and_width(
    browser: Browser, busy: Site, viewport: dict[str, int], scheme: str, locale: str
) -> None:
    found = {}
    for name, window in windows(browser, busy, viewport=viewport, color_scheme=scheme, locale=locale):
        problems = problems_of(window)
        if name in KINDS:
            problems += [problem for key in ("?", "s", "z", "m") for problem in _dialog(window, key)]
        if problems:
            found[name] = problems
    assert found == {}


def _dialog(window: Page, key: str) -> list[str]:
    press(window, "Escape", key)
    problems = problems_of(window)
    press(window, "Escape")
    return problems


FROM_THE_TOP = """() => {
  document.body.tabIndex = -1;
  document.body.focus();
  document.body.removeAttribute("tabindex");
  window.lastFocus = null;
}"""
FOCUS = """() => {
  const element = document.activeElement;
  if (element === document.body) return null;
  const native = element.matches("audio, video"); // the browser marks the button inside
  const shown = native || [element, element.nextElementSibling].filter(Boolean).some((one) => {
    const style = getComputedStyle(one);
    return style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2;
  });
  const box = element.getClientRects()[0]; // the first line of a link
  const top = document.elementFromPoint(box.x + Math.min(box.width / 2, 12), box.y + Math.min(box.height / 2, 20));
  const clear = element.contains(top) || (element.labels ?? []).length > 0 && element.labels[0].contains(top);
  const before = window.lastFocus;
  window.lastFocus = element;
  const ordered = !before || before.contains(element) ||
    Boolean(before.compareDocumentPosition(element) & Node.DOCUMENT_POSITION_FOLLOWING);
  return {html: element.outerHTML.slice(0, 120), shown, clear, ordered};
}"""


@pytest.mark.parametrize("viewport", [{"width": 1280, "height": 860}, PHONE], ids=["desktop", "phone"])
def test_focus_is_seen_and_goes_in_order(browser: Browser, busy: Site, viewport: dict[str, int]) -> None:
    for name, window in windows(browser, busy, viewport=viewport, reduced_motion="reduce"):
        window.evaluate(FROM_THE_TOP)
        stops = []
        for _ in range(200):
            press(window, "Tab")
            stop = window.evaluate(FOCUS)
            if stop is None or stop["html"] in [
                first["html"] for first in stops[:1]
            ]:  # around, with or without a stop at the window itself
                break
            stops.append(stop)
        assert len(stops) >= (2 if name == "login" else 6), name
        assert [stop for stop in stops if not (stop["shown"] and stop["clear"] and stop["ordered"])] == [], name


def test_a_screen_reader_finds_its_way(page: Page, feedback: Site) -> None:
    feedback.add(item("rate", "one", "two"))
    page.goto(f"{feedback.url}/work")
    for role, name in (("navigation", "Pages"), ("region", "What was asked"), ("article", "Response 1")):
        assert page.get_by_role(role, name=name).count() == 1
    group = page.get_by_role("article", name="Response 2").get_by_role("group", name="Grounded")
    assert group.get_by_role("radio").count() == 5
    group.get_by_role("radio", name="4").check()
    page.evaluate(FROM_THE_TOP)
    press(page, "Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"


def test_a_finger_ranks_and_marks(browser: Browser, feedback: Site) -> None:
    context = browser.new_context(viewport=PHONE, has_touch=True, is_mobile=True)
    window = log_in(context, feedback, feedback.account("Ann"))
    feedback.add(item("rank", "a", "b", "c"))
    window.goto(f"{feedback.url}/work")
    first, last = window.locator(".handle").first.bounding_box(), window.locator(".ranking li").last.bounding_box()
    before = window.locator(".response .text").all_inner_texts()
    assert first is not None
    assert last is not None
    _swipe(context, window, (first["x"] + 10, first["y"] + 10), (first["x"] + 10, last["y"] + last["height"] - 5))
    assert window.locator(".response .text").all_inner_texts() == [before[1], before[2], before[0]]
    window.wait_for_timeout(1000)  # at once after a swipe a tap only ends it
    window.get_by_role("button", name="Save").tap()
    window.get_by_role("heading", name="Nothing to do").wait_for()
    (row,) = feedback.export()
    assert dict(zip(row["responses"], row["ranks"], strict=True)) == {before[1]: 1, before[2]: 2, before[0]: 3}
    context.close()


def _swipe(context: BrowserContext, window: Page, start: tuple[float, float], end: tuple[float, float]) -> None:
    session = context.new_cdp_session(window)
    steps = [(start[0], start[1] + (end[1] - start[1]) * i / 12) for i in range(13)]
    for i, (x, y) in enumerate(steps):
        kind = "touchStart" if i == 0 else "touchMove"
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y}]})
    session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
