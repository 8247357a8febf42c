"""Every kind of question, answered with the keyboard alone, and what the export then says."""

from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Page, expect

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
    shown,
    site,
)

ROUNDS = 4


@pytest.mark.parametrize("keys", [("ArrowLeft", "ArrowRight"), ("1", "2")])
def test_a_pair_names_the_side_that_was_chosen(page: Page, feedback: Site, keys: tuple[str, str]) -> None:
    feedback.add(*(item("pair", f"good {n}", f"bad {n}", item_id=f"pair-{n}", ask=f"{n}?") for n in range(ROUNDS)))
    open_work(page, feedback)
    for _ in range(ROUNDS):
        ready(page)
        good = next(text for text in shown(page) if text.startswith("good"))
        press(page, keys[place_of(page, good)])
        confirm(page)
    rows = feedback.export()
    assert [by_response(row, row["ranks"]) for row in rows] == [{f"good {n}": 1, f"bad {n}": 2} for n in range(ROUNDS)]
    for row in rows:
        assert row["choice"] == ("left", "right")[row["order_shown"].index(0)]


SUGGEST = {"answer": {"choice": "right"}, "source": "a judge"}


def test_a_suggestion_is_filled_in_and_can_be_changed(context: BrowserContext, tmp_path: Path) -> None:
    with site(tmp_path / "data", suggestions="shown") as feedback:
        feedback.add(item("pair", "bad", "good", suggestion=SUGGEST))
        page = log_in(context, feedback, feedback.account("Ann"))
        open_work(page, feedback)
        expect(page.get_by_text("There is a suggestion by a judge.")).to_be_visible()
        assert page.locator("[name=choice]:checked").count() == 0
        page.get_by_role("button", name="Fill it in").click()
        chosen = page.locator("[name=choice]:checked")
        assert chosen.get_attribute("value") == ("left", "right")[place_of(page, "good")]
        confirm(page)
        (row,) = feedback.export()
        assert by_response(row, row["ranks"]) == {"good": 1, "bad": 2}


def test_ties_and_two_bad_responses(page: Page, feedback: Site) -> None:
    feedback.add(*(item("pair", "a", "b", item_id=f"pair-{n}", ask=f"{n}?") for n in range(2)))
    open_work(page, feedback)
    for key in ("ArrowDown", "x"):
        ready(page)
        press(page, key)
        confirm(page)
    assert [(row["choice"], row["ranks"]) for row in feedback.export()] == [("tie", [1, 1]), ("both_bad", [1, 1])]


def test_nothing_is_sent_before_a_choice(page: Page, feedback: Site) -> None:
    feedback.add(item("pair", "a", "b"))
    open_work(page, feedback)
    press(page, "Enter")
    expect(page.get_by_role("alert").filter(has_text="Choose first")).to_be_visible()
    expect(page.locator("[value=left]")).to_be_focused()
    assert feedback.export() == []


def test_ranks_by_number(page: Page, feedback: Site) -> None:
    texts = ["best", "second", "also second", "worst"]
    wanted = dict(zip(texts, (1, 2, 2, 3), strict=True))
    feedback.add(item("rank", *texts))
    open_work(page, feedback)
    for text in shown(page):
        press(page, str({1: 1, 2: 2, 3: 4}[wanted[text]]))  # 1, 2, 2, 4 is the same order
    confirm(page)
    (row,) = feedback.export()
    assert by_response(row, row["ranks"]) == wanted


def test_ranks_by_arrows(page: Page, feedback: Site) -> None:
    feedback.add(item("rank", "a", "b", "c"))
    open_work(page, feedback)
    before = shown(page)
    page.get_by_role("button", name="Move response 3").focus()
    press(page, "ArrowUp", "ArrowUp")
    after = [before[2], before[0], before[1]]
    assert shown(page) == after
    expect(page.get_by_role("button", name="Move response 3")).to_be_focused()
    confirm(page)
    (row,) = feedback.export()
    assert by_response(row, row["ranks"]) == {text: place + 1 for place, text in enumerate(after)}


def test_ranks_by_dragging(page: Page, feedback: Site) -> None:
    feedback.add(item("rank", "a", "b", "c"))
    open_work(page, feedback)
    before = shown(page)
    handle, last = page.locator(".handle").first.bounding_box(), page.locator(".ranking li").last.bounding_box()
    assert handle is not None
    assert last is not None
    page.mouse.move(handle["x"] + 10, handle["y"] + 10)
    page.mouse.down()
    page.mouse.move(handle["x"] + 10, last["y"] + last["height"], steps=12)
    page.mouse.up()
    assert shown(page) == [before[1], before[2], before[0]]
    confirm(page)
    (row,) = feedback.export()
    assert by_response(row, row["ranks"]) == {before[1]: 1, before[2]: 2, before[0]: 3}


def test_ratings(page: Page, feedback: Site) -> None:
    feedback.add(item("rate", "one", "two"))
    open_work(page, feedback)
    press(page, "5", "4", "3", "2")  # helpful, grounded, safe, fluent of the first
    press(page, "1", "5", "5", "5", "Backspace")  # and of the second, fluency taken back
    first, second = shown(page)
    confirm(page)
    (row,) = feedback.export()
    rated = {aspect: by_response(row, values) for aspect, values in row["aspects"].items()}
    assert rated == {
        "helpful": {first: 5, second: 1},
        "grounded": {first: 4, second: 5},
        "safe": {first: 3, second: 5},
        "fluent": {first: 2, second: None},
    }


def test_a_correction_with_its_changes_in_sight(page: Page, feedback: Site) -> None:
    feedback.add(item("correct", "the sky is green\nand high"))
    open_work(page, feedback)
    press(page, "e", "Control+Home")
    for _ in range(4):
        press(page, "Control+ArrowRight")
    expect(page.locator("#changes")).to_have_text("None yet.")
    page.keyboard.press("Control+Home")
    for _ in range(len("the sky is ")):
        press(page, "ArrowRight")
    press(page, *["Delete"] * len("green"))
    page.keyboard.type("blue")
    expect(page.locator("#changes del")).to_have_text("green")
    expect(page.locator("#changes ins")).to_have_text("blue")
    confirm(page, "Control+Enter")
    (row,) = feedback.export()
    assert (row["text"], row["responses"]) == ("the sky is blue\nand high", ["the sky is green\nand high"])


@pytest.mark.parametrize(
    ("kind", "column", "responses"), [("demonstrate", "text", []), ("critique", "critique", ["x"])]
)
def test_writing(page: Page, feedback: Site, kind: str, column: str, responses: list[str]) -> None:
    feedback.add(item(kind, *responses))
    open_work(page, feedback)
    press(page, "e")
    page.keyboard.type("It is a cat, isn't it? x u s")
    press(page, "Enter")
    page.keyboard.type("Yes.")
    confirm(page, "Control+Enter")
    (row,) = feedback.export()
    assert row[column] == "It is a cat, isn't it? x u s\nYes."


def test_spans_count_characters(page: Page, feedback: Site) -> None:
    text = "😀 the dog barks, the cat sings"
    feedback.add(item("spans", text))
    open_work(page, feedback)
    press(page, "e", "Control+Home", *["ArrowRight"] * len("😀 the "), *["Shift+ArrowRight"] * len("dog"), "w")
    press(page, "Control+End", *["Shift+ArrowLeft"] * len("sings"), "w")
    expect(page.locator("#marks q")).to_have_text(["dog", "sings"])
    expect(page.locator("mark")).to_have_text(["dog", "sings"])
    page.get_by_label("Note on “sings”").focus()
    page.keyboard.type("cats do not")
    confirm(page, "Control+Enter")
    (row,) = feedback.export()
    spans = [(text[start:end], note) for start, end, note in row["spans"]]
    assert spans == [("dog", ""), ("sings", "cats do not")]


def test_marks_join_and_go_and_the_text_stays(page: Page, feedback: Site) -> None:
    feedback.add(item("spans", "one two three"))
    open_work(page, feedback)
    press(page, "e", "Control+Home", *["Shift+ArrowRight"] * 5, "w")
    press(page, "Control+Home", *["ArrowRight"] * 4, *["Shift+ArrowRight"] * 9, "w")
    expect(page.locator("#marks q")).to_have_text(["one two three"])
    page.get_by_role("button", name="Remove the mark").focus()
    press(page, "Enter")
    expect(page.locator("#marks q")).to_have_count(0)
    page.keyboard.type("qzj")  # into the text, which takes nothing
    press(page, "Backspace", "Delete")
    expect(page.locator("#markable")).to_have_text("one two three")
    confirm(page)
    assert feedback.export()[0]["spans"] == []


def test_a_critique_and_a_comment_beside_any_answer(page: Page, feedback: Site) -> None:
    feedback.add(item("pair", "a", "b"))
    open_work(page, feedback)
    press(page, "ArrowDown", "c")
    page.keyboard.type("Both say the same.")
    press(page, "Tab", "Enter", "Tab")
    page.keyboard.type("Too easy.")
    confirm(page, "Control+Enter")
    (row,) = feedback.export()
    assert (row["critique"], row["comment"], row["choice"]) == ("Both say the same.", "Too easy.", "tie")
