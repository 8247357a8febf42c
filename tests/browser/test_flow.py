"""From item to item: undo, skip, connections that break, sessions that end."""

import pytest
from playwright.sync_api import BrowserContext, Page, Route, expect

from tests.browser.support import (
    Site,
    by_response,
    confirm,
    item,
    log_in,
    open_work,
    place_of,
    press,
    ready,
    sends,
    shown,
)


def test_undo_shows_the_answer_again_and_the_new_one_counts(page: Page, feedback: Site) -> None:
    feedback.add(item("pair", "good", "bad"), item("demonstrate", ask="And this?"))
    open_work(page, feedback)
    wrong = ("ArrowLeft", "ArrowRight")[place_of(page, "bad")]
    right = ("ArrowLeft", "ArrowRight")[place_of(page, "good")]
    press(page, wrong)
    confirm(page)
    expect(page.get_by_role("heading", level=1)).to_have_text("Write the best answer")
    order = [wrong == "ArrowLeft", wrong == "ArrowRight"]
    sends(page, "/undo", lambda: press(page, "u"))
    expect(page.get_by_role("heading", level=1)).to_be_focused()
    assert [page.locator("[value=left]").is_checked(), page.locator("[value=right]").is_checked()] == order
    press(page, right)
    confirm(page)
    (row,) = feedback.export()
    assert by_response(row, row["ranks"]) == {"good": 1, "bad": 2}


def test_skip_with_a_reason(page: Page, feedback: Site) -> None:
    feedback.add(item("pair", "a", "b"))
    open_work(page, feedback)
    press(page, "s", "Escape")
    expect(page.locator("#skipping")).to_be_hidden()
    press(page, "s", "2", "Tab")
    page.keyboard.type("Too blurred")
    press(page, "Tab")
    confirm(page, path="/api/skip")
    expect(page.get_by_role("heading", level=1)).to_have_text("Nothing to do at the moment")
    data = feedback.admin.get("/api/annotators/Ann/data").json()
    assert [(skip["reason"], skip["comment"]) for skip in data["skips"]] == [("cannot_judge", "Too blurred")]
    assert feedback.export() == []


def test_a_vote_waits_for_the_connection(page: Page, feedback: Site, context: BrowserContext) -> None:
    feedback.add(item("pair", "a", "b"))
    open_work(page, feedback)
    context.set_offline(True)
    press(page, "ArrowLeft", "Enter")
    expect(page.get_by_role("status")).to_contain_text("No connection to the server. Nothing is lost")
    chosen = shown(page)[0]
    context.set_offline(False)
    expect(page.get_by_role("status")).to_contain_text("Saved.")
    (row,) = feedback.export()
    assert by_response(row, row["ranks"])[chosen] == 1


def test_a_vote_whose_receipt_was_lost_counts_once(page: Page, feedback: Site) -> None:
    feedback.add(item("pair", "a", "b"))
    open_work(page, feedback)
    lost: list[int] = []

    def lose_the_first(route: Route) -> None:
        answer = route.fetch()
        lost.append(answer.status)
        if len(lost) == 1:
            route.abort()
        else:
            route.fulfill(response=answer)

    page.route("**/api/votes", lose_the_first)
    press(page, "ArrowLeft", "Enter")
    expect(page.get_by_role("status")).to_contain_text("Saved.")
    assert lost == [201, 200]
    assert len(feedback.export()) == 1


def test_a_vote_outlives_a_log_out(page: Page, feedback: Site, context: BrowserContext) -> None:
    token = feedback.account("Ben")
    feedback.add(item("pair", "a", "b"))
    page = log_in(context, feedback, token)
    open_work(page, feedback)
    context.clear_cookies()
    press(page, "ArrowDown", "Enter")
    expect(page.get_by_role("status")).to_contain_text("You are logged out")
    log_in(context, feedback, token).close()
    expect(page.get_by_role("status")).to_contain_text("Saved.")
    assert [row["choice"] for row in feedback.export()] == ["tie"]


def test_drafts_outlive_a_reload(page: Page, feedback: Site) -> None:
    feedback.add(item("demonstrate"))
    open_work(page, feedback)
    page.fill("#text", "half an ans")
    page.reload()
    ready(page)
    expect(page.locator("#text")).to_have_value("half an ans")


def test_an_item_that_is_gone_is_said_and_the_next_one_comes(page: Page, feedback: Site) -> None:
    feedback.add(item("pair", "a", "b"), item("demonstrate", ask="And this?"))
    open_work(page, feedback)
    mine = page.evaluate("JSON.parse(document.querySelector('#question').dataset.item).item_id")
    token = page.evaluate("document.querySelector('meta[name=csrf]').content")
    skipped = page.request.post(
        f"{feedback.url}/api/skip", data={"item_id": mine, "reason": "other"}, headers={"X-CSRF-Token": token}
    )
    assert skipped.ok
    press(page, "ArrowLeft", "Enter")
    expect(page.get_by_role("status")).to_contain_text("Not saved: you do not hold this item")
    expect(page.get_by_role("heading", level=1)).to_have_text("Write the best answer")


def test_what_the_server_refuses_is_said_and_can_be_mended(page: Page, feedback: Site) -> None:
    feedback.add(item("demonstrate"))
    open_work(page, feedback)
    page.evaluate("document.querySelector('#text').removeAttribute('maxlength')")
    page.fill("#text", "x" * 20_001)
    press(page, "Control+Enter")
    expect(page.locator("#problem")).to_contain_text("at most 20000")
    page.fill("#text", "short")
    confirm(page, "Control+Enter")
    assert feedback.export()[0]["text"] == "short"


def test_focus_and_words_after_a_vote(page: Page, feedback: Site) -> None:
    feedback.add(item("pair", "a", "b"), item("demonstrate", ask="And this?"))
    open_work(page, feedback)
    press(page, "ArrowDown")
    confirm(page)
    expect(page.get_by_role("heading", level=1)).to_be_focused()
    expect(page.get_by_role("status")).to_have_text("Saved. Write the best answer")
    expect(page).to_have_title("Write the best answer · Feedback")
    expect(page.locator(".pace")).to_contain_text("1 vote, 1 in the last hour")


def test_keys_can_be_switched_off(page: Page, feedback: Site) -> None:
    feedback.add(item("pair", "a", "b"))
    open_work(page, feedback)
    press(page, "?")
    expect(page.locator("#keys")).to_be_visible()
    page.get_by_label("Use keys of one letter or arrow").uncheck()
    press(page, "Escape", "ArrowLeft", "s")
    expect(page.locator("[name=choice]:checked")).to_have_count(0)
    expect(page.locator("#skipping")).to_be_hidden()


@pytest.mark.parametrize("key", ["Control+ArrowLeft", "Meta+1", "Alt+x"])
def test_keys_of_the_browser_stay_its_own(page: Page, feedback: Site, key: str) -> None:
    feedback.add(item("pair", "a", "b"))
    open_work(page, feedback)
    press(page, key)
    expect(page.locator("[name=choice]:checked")).to_have_count(0)


def test_time_counts_while_the_page_is_in_sight(page: Page, feedback: Site) -> None:
    page.clock.install()
    feedback.add(item("pair", "a", "b"))
    open_work(page, feedback)
    page.clock.run_for(30_000)
    press(page, "ArrowDown", "Enter")
    expect(page.get_by_role("status")).to_contain_text("Saved.")
    assert 30_000 <= feedback.export()[0]["milliseconds"] < 60_000
