"""Episodes: turns with their media, within the responses."""

from playwright.sync_api import Browser, Page, expect

from mmrlhf_ray.demo.digits import digit_png
from tests.browser.support import Row, Site, by_response, confirm, log_in, open_work, problems_of
from tests.browser.test_access import PHONE


def episodes(feedback: Site) -> Row:
    picture = feedback.upload("image", digit_png(4))
    looks = [
        {"kind": "response", "text": "crop 0 0 1 1"},
        {"kind": "observation", "text": "the part that you asked for", "media_ids": [picture]},
        {"kind": "response", "text": "It is a **four**."},
    ]
    responses = [{"turns": looks}, {"turns": [{"kind": "response", "text": "It is a six."}]}]
    return {"prompt": "Which digit?", "question": "pair", "responses": responses, "item_id": "episodes"}


def test_turns_are_shown_and_a_picture_in_them_does_not_vote(page: Page, feedback: Site) -> None:
    feedback.add(episodes(feedback))
    open_work(page, feedback)
    looks = page.locator(".response").filter(has_text="crop")
    expect(looks.locator("h3")).to_have_text(["The model", "It was shown", "The model"])
    expect(looks.locator("strong")).to_have_text("four")
    looks.get_by_role("button", name="Enlarge Image 1 of 1").click()
    expect(page.locator("#zoomed")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("[name=choice]:checked")).to_have_count(0)
    looks.locator("h2").click()
    confirm(page, "Control+Enter")
    (row,) = feedback.export()
    ranks = by_response(row, row["ranks"])
    assert ranks == {"crop 0 0 1 1\n\n> the part that you asked for\n\nIt is a **four**.": 1, "It is a six.": 2}
    assert [len(turns) for turns in row["turns"]] == [3, 1]


def test_episodes_fit_a_phone(browser: Browser, feedback: Site) -> None:
    feedback.add(episodes(feedback))
    context = browser.new_context(viewport=PHONE, color_scheme="dark")
    window = log_in(context, feedback, feedback.account("Ann"))
    open_work(window, feedback)
    assert problems_of(window) == []
    context.close()
