"""Images that zoom, sounds and clips that play, by keys."""

import numpy as np
from playwright.sync_api import Page, expect

from mmrlhf_ray.demo.clips import clip_webm
from mmrlhf_ray.demo.digits import digit_png
from mmrlhf_ray.demo.tones import tone_wav
from tests.browser.support import Row, Site, item, open_work, press, until


def shows(*kinds_and_ids: tuple[str, str]) -> Row:
    content = [{"type": kind} for kind, _ in kinds_and_ids] + [{"type": "text", "text": "What is it?"}]
    row = item("pair", "a", "b") | {"messages": [{"role": "user", "content": content}]}
    del row["prompt"]
    return row | {"media_ids": [media_id for _, media_id in kinds_and_ids]}


def media(feedback: Site) -> Row:
    """An item with two images, a sound and a clip."""
    wav = tone_wav(3, np.random.default_rng(0), 0.1)
    return shows(
        ("image", feedback.upload("image", digit_png(0))),
        ("image", feedback.upload("image", digit_png(1))),
        ("audio", feedback.upload("audio", wav)),
        ("video", feedback.upload("video", clip_webm(0, "left"))),
    )


def test_sound_and_clip_play_by_key(page: Page, feedback: Site) -> None:
    feedback.add(media(feedback))
    open_work(page, feedback)
    sound, clip = page.locator("audio"), page.locator("video")
    press(page, "p")
    until(page, "document.querySelector('audio').currentTime > 0")
    assert clip.evaluate("medium => medium.currentTime") == 0
    press(page, "Shift+P")
    until(page, "document.querySelector('video').currentTime > 0")
    assert sound.evaluate("medium => medium.paused")
    press(page, "p")
    until(page, "document.querySelector('video').paused")


def test_they_still_play_on_the_next_item(page: Page, feedback: Site) -> None:
    feedback.add(item("demonstrate", ask="First?"), media(feedback))
    open_work(page, feedback)
    press(page, "s", "Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Which response is better?")
    press(page, "p")
    until(page, "document.querySelector('audio').currentTime > 0")
    until(page, "[...document.querySelectorAll('.media img')].every(image => image.naturalWidth === 16)")


def scale(page: Page) -> float:
    return float(page.locator("#zoomed img").evaluate("image => new DOMMatrix(getComputedStyle(image).transform).a"))


def shift(page: Page) -> float:
    return float(page.locator("#zoomed img").evaluate("image => new DOMMatrix(getComputedStyle(image).transform).e"))


def test_zoom_by_keys(page: Page, feedback: Site) -> None:
    feedback.add(media(feedback))
    open_work(page, feedback)
    first, second = page.locator(".media .zoom").all()
    press(page, "z")
    large = page.locator("#zoomed img")
    expect(large).to_have_attribute("alt", "Image 1 of 2")
    width = large.bounding_box()
    assert width is not None
    assert width["width"] > 600
    press(page, "+", "+")
    assert scale(page) == 2.25
    press(page, "ArrowRight")
    assert shift(page) == -60
    press(page, "-", "0")
    assert scale(page) == 1
    press(page, "Escape")
    expect(page.locator("#zoomed")).to_be_hidden()
    second.focus()
    press(page, "Enter")
    expect(large).to_have_attribute("alt", "Image 2 of 2")
    press(page, "z")
    expect(page.locator("#zoomed")).to_be_hidden()
    expect(second).to_be_focused()
    expect(first).not_to_be_focused()


def test_zoom_by_wheel_and_pan_by_mouse(page: Page, feedback: Site) -> None:
    feedback.add(media(feedback))
    open_work(page, feedback)
    page.locator(".media .zoom").first.click()
    page.mouse.move(640, 400)
    page.mouse.wheel(0, -400)
    until(page, "getComputedStyle(document.querySelector('#zoomed img')).transform !== 'none'")
    assert 2.5 < scale(page) < 2.9
    before = shift(page)
    page.mouse.down()
    page.mouse.move(700, 400)
    page.mouse.up()
    assert shift(page) == before + 60
