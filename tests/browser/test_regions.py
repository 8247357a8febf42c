"""Places that an answer points at: drawn by mouse, finger and keyboard, and what the export then says."""

import numpy as np
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from mmrlhf_ray.demo.clips import clip_webm
from mmrlhf_ray.demo.digits import digit_png
from mmrlhf_ray.demo.tones import tone_wav
from tests.browser.support import (
    Row,
    Site,
    by_response,
    confirm,
    item,
    log_in,
    open_work,
    place_of,
    press,
    ready,
    until,
)
from tests.browser.test_access import PHONE, _swipe
from tests.browser.test_media import shows

GOOD, BAD = "It is a 🙂 four.", "It is a six."


@pytest.fixture
def shown(feedback: Site) -> None:
    """A pair about a picture, a sound and a clip."""
    wav = tone_wav(3, np.random.default_rng(0), 0.1)
    row = shows(
        ("image", feedback.upload("image", digit_png(0))),
        ("audio", feedback.upload("audio", wav)),
        ("video", feedback.upload("video", clip_webm(0, "left"))),
    )
    feedback.add(row | {"responses": [GOOD, BAD]})


def drag_over(page: Page, selector: str, start: tuple[float, float], end: tuple[float, float]) -> None:
    """From one point of an element to another, as shares of its width and height."""
    edges = page.locator(selector).bounding_box()
    assert edges is not None
    for number, (x, y) in enumerate((start, end)):
        page.mouse.move(edges["x"] + x * edges["width"], edges["y"] + y * edges["height"], steps=8)
        if number == 0:
            page.mouse.down()
    page.mouse.up()


def add(page: Page, **about: str) -> None:
    """Say what the place that is drawn is about, and add it."""
    if "aspect" in about:
        page.locator("#place-aspect").select_option(about["aspect"])
    if "claim" in about:
        page.locator("#place-claim").select_option(label=about["claim"])
    page.locator("#place-note").fill(about.get("note", ""))
    page.get_by_role("button", name="Add", exact=False).click()
    expect(page.locator("#marking")).to_be_hidden()


def regions(feedback: Site) -> list[Row]:
    (row,) = feedback.export()
    found: list[Row] = row["regions"]
    return found


def test_a_box_a_range_and_words_by_mouse(page: Page, feedback: Site, shown: None) -> None:
    open_work(page, feedback)
    good = place_of(page, GOOD)
    page.get_by_role("button", name="Point at a place").click()
    until(page, "document.querySelector('.frame img').naturalWidth > 0")
    drag_over(page, ".frame", (0.25, 0.5), (0.75, 0.9))
    add(page, aspect="grounded", note="the stroke")
    expect(page.locator("#places li")).to_contain_text("Image 1 of 1: box at 25 %, 50 %, of 50 % × 40 %")
    expect(page.locator(".prompt .zoom .place")).to_have_count(1)
    press(page, "m")
    page.locator("#place-of").select_option("medium 1")
    until(page, "document.querySelector('#drawing audio').duration > 0")
    length = float(page.locator("#drawing audio").evaluate("medium => medium.duration"))
    drag_over(page, "#drawing .timeline", (0.2, 0.5), (0.6, 0.5))
    add(page)
    press(page, "m")
    page.locator("#place-of").select_option(f"response {good}")
    page.locator("#marked-text").dblclick(position={"x": 14, "y": 20})
    add(page)
    press(page, "m")
    page.locator("#place-of").select_option("medium 2")
    until(page, "document.querySelector('#drawing video').duration > 0")
    page.get_by_label("Start, s").fill("0.1")
    page.get_by_label("End, s").fill("0.3")
    add(page, claim="“It”", note="moves left")
    press(page, ("ArrowLeft", "ArrowRight")[good])
    confirm(page)
    box, sound, words, clip = regions(feedback)
    assert (box["kind"], box["index"], box["aspect"], box["note"]) == ("box", 0, "grounded", "the stroke")
    assert box["extent"] == pytest.approx([0.25, 0.5, 0.5, 0.4], abs=0.02)
    assert (sound["kind"], sound["index"]) == ("range", 1)
    assert sound["extent"] == pytest.approx([0.2 * length, 0.6 * length], abs=0.03 * length)
    (row,) = feedback.export()
    assert by_response(row, row["ranks"]) == {GOOD: 1, BAD: 2}
    assert (words["kind"], row["responses"][words["index"]], words["extent"]) == ("text", GOOD, [0, 2])
    assert (clip["index"], clip["extent"], clip["note"]) == (2, [0.1, 0.3], "moves left")
    assert (row["responses"][clip["claim"][0]], clip["claim"][1:]) == (GOOD, [0, 2])


def test_a_box_and_words_by_keys_alone(page: Page, feedback: Site, shown: None) -> None:
    open_work(page, feedback)
    good = place_of(page, GOOD)
    press(page, "m", "ArrowRight", "ArrowRight", "ArrowDown", "Shift+ArrowRight")
    until(page, "document.querySelector('.frame img').naturalWidth > 0")
    page.get_by_label("Note").focus()
    press(page, "Enter")
    expect(page.locator("#places li")).to_have_count(1)
    press(page, "m")
    page.locator("#place-of").focus()
    for _ in range(3 + good):
        press(page, "ArrowDown")
    page.locator("#marked-text").focus()
    press(page, "Control+Home", *["ArrowRight"] * len("It is a "), *["Shift+ArrowRight"] * 6)
    page.get_by_label("Note").focus()
    page.keyboard.type("yes")
    press(page, "Enter")
    expect(page.locator("#places li")).to_have_count(2)
    press(page, "ArrowDown")
    expect(page.locator(".choice input:checked")).to_have_count(1)
    confirm(page)
    box, words = regions(feedback)
    assert box["extent"] == pytest.approx([0.41, 0.41, 0.21, 0.2])
    start, end = words["extent"]
    assert GOOD[start:end] in ("🙂 four", "🙂 fou")  # browsers differ in how they count the smile
    assert words["note"] == "yes"


def test_a_finger_draws(browser: Browser, feedback: Site, shown: None) -> None:
    context = browser.new_context(viewport=PHONE, has_touch=True, is_mobile=True)
    window = log_in(context, feedback, feedback.account("Ann"))
    open_work(window, feedback)
    window.get_by_role("button", name="Point at a place").tap()
    until(window, "document.querySelector('.frame img').naturalWidth > 0")
    edges = window.locator(".frame").bounding_box()
    assert edges is not None
    x, y = edges["x"] + edges["width"] / 2, edges["y"]
    _swipe(context, window, (x, y + edges["height"] * 0.2), (x, y + edges["height"] * 0.7))
    window.wait_for_timeout(1000)  # at once after a swipe a tap only ends it
    extent = window.get_by_label("Height, %").input_value()
    assert float(extent) == pytest.approx(50, abs=3)
    window.get_by_label("Width, %").fill("20")
    window.get_by_role("button", name="Add").tap()
    window.locator(".choice input").first.tap()
    window.wait_for_timeout(500)
    window.get_by_role("button", name="Save").tap()
    window.get_by_role("heading", name="Nothing to do").wait_for()
    (box,) = regions(feedback)
    assert box["extent"][2:] == pytest.approx([0.2, 0.5], abs=0.03)
    context.close()


def test_nothing_is_added_before_it_is_drawn_and_what_is_added_can_go(
    page: Page, feedback: Site, shown: None, context: BrowserContext
) -> None:
    open_work(page, feedback)
    press(page, "m")
    page.get_by_role("button", name="Add").click()
    expect(page.locator("#place-problem")).to_have_text("Draw the place first, or choose its words.")
    page.get_by_label("Left, %").fill("10")
    page.get_by_label("Top, %").fill("10")
    page.get_by_label("Width, %").fill("10")
    page.get_by_label("Height, %").fill("10")
    add(page, note="<img src=x onerror=alert(1)>")
    page.reload()
    ready(page)
    expect(page.locator("#places li")).to_contain_text("<img src=x onerror=alert(1)>")
    press(page, "ArrowDown")
    confirm(page)
    assert len(regions(feedback)) == 1
    press(page, "u")
    page.wait_for_selector("#places li")
    page.get_by_role("button", name="Remove Image 1 of 1").click()
    expect(page.locator("#places li")).to_have_count(0)
    confirm(page, "Control+Enter")
    assert regions(feedback) == []


def test_a_player_loops_slows_down_and_steps(page: Page, feedback: Site, shown: None) -> None:
    open_work(page, feedback)
    page.get_by_label("Speed of Sound 1 of 1").select_option("0.5")
    assert page.locator(".prompt audio").evaluate("medium => medium.playbackRate") == 0.5
    press(page, "l")
    assert page.locator(".prompt audio").evaluate("medium => medium.loop")
    until(page, "document.querySelector('.prompt video').duration > 0")
    page.get_by_role("button", name="Forward 0.04 s").click()
    assert page.locator(".prompt video").evaluate("medium => medium.currentTime") == pytest.approx(0.04, abs=0.01)


def test_an_item_without_media_and_responses_has_no_places(page: Page, feedback: Site) -> None:
    feedback.add(item("demonstrate"))
    open_work(page, feedback)
    expect(page.get_by_role("button", name="Point at a place")).to_have_count(0)
    press(page, "m")
    expect(page.locator("dialog[open]")).to_have_count(0)


def test_an_older_vote_is_changed(page: Page, feedback: Site, shown: None) -> None:
    feedback.add(item("critique", "x", ask="Another?"))
    open_work(page, feedback)
    good = place_of(page, GOOD)
    press(page, ("ArrowLeft", "ArrowRight")[good], "m", "ArrowDown")
    add(page, note="here")
    confirm(page, "Control+Enter")
    page.goto(f"{feedback.url}/votes")
    page.get_by_role("link", name="Change vote 1").click()
    ready(page)
    expect(page.locator("#places li")).to_contain_text("here")
    assert place_of(page, GOOD) == good, "the responses stand where they stood"
    press(page, ("ArrowRight", "ArrowLeft")[good])
    press(page, "Enter")
    page.wait_for_url(f"{feedback.url}/votes")
    expect(page.get_by_role("link", name="Change vote")).to_have_count(1)
    (row,) = feedback.export()
    assert by_response(row, row["ranks"]) == {GOOD: 2, BAD: 1}
    assert [region["note"] for region in row["regions"]] == ["here"]
