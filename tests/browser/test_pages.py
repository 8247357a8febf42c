"""Home, guide, review and administration."""

from playwright.sync_api import BrowserContext, Page, expect

from tests.browser.support import Site, by_response, confirm, item, log_in, open_work, press, ready


def test_home_tells_what_is_waiting_and_how_far_one_is(page: Page, feedback: Site) -> None:
    feedback.add(item("pair", "a", "b"), item("rate", "a", ask="And this?"))
    page.goto(feedback.url)
    expect(page.locator("main")).to_contain_text("2 items are waiting for you.")
    expect(page.get_by_role("row", name="Compare two")).to_contain_text("1")
    page.get_by_role("link", name="Start").focus()
    press(page, "Enter")
    ready(page)
    press(page, "ArrowDown")
    confirm(page)
    page.goto(feedback.url)
    expect(page.locator("main")).to_contain_text("1 item is waiting for you.")
    expect(page.get_by_role("row", name="Compare two")).to_contain_text("0")
    expect(page.get_by_text("1 of 6 votes; 0 of 2 items are done")).to_be_visible()


def test_the_guide_has_every_kind_and_aspect(page: Page, feedback: Site) -> None:
    page.get_by_role("link", name="Read the guide").click()
    for word in ("Which response is better?", "Mark what is wrong", "Grounded", "mark the selection as wrong"):
        expect(page.locator("main")).to_contain_text(word)


def test_annotators_see_no_pages_of_others(page: Page, feedback: Site) -> None:
    assert page.get_by_role("navigation").get_by_role("link").all_inner_texts() == ["Home", "Work", "Guide"]
    for path in ("/review", "/admin", "/admin/quality"):
        answer = page.goto(feedback.url + path)
        assert answer is not None
        assert answer.status == 403


def test_log_out(page: Page, feedback: Site) -> None:
    page.get_by_role("button", name="Log out").click()
    page.wait_for_url("**/login")
    page.goto(f"{feedback.url}/work")
    assert page.url.endswith("/login")


def test_a_wrong_token_is_said(context: BrowserContext, feedback: Site) -> None:
    window = context.new_page()
    window.goto(f"{feedback.url}/login#token=wrong")
    expect(window.get_by_role("alert")).to_contain_text("not valid")


def test_a_reviewer_decides_what_annotators_dispute(context: BrowserContext, feedback: Site) -> None:
    feedback.add(item("pair", "good", "bad"), item("pair", "same", "so", item_id="agreed", ask="And this?"))
    for name, wanted in (("Ann", "good"), ("Ben", "bad")):
        window = log_in(context, feedback, feedback.account(name))
        open_work(window, feedback)
        place = window.locator(".response .text").all_inner_texts().index(wanted)
        press(window, ("ArrowLeft", "ArrowRight")[place])
        confirm(window)
        press(window, "ArrowDown")
        confirm(window)
        window.close()
    window = log_in(context, feedback, feedback.account("Rita", "reviewer"))
    window.goto(f"{feedback.url}/review")
    ready(window)
    expect(window.locator(".pace")).to_contain_text("1 of 1 to decide")
    votes = window.locator("main table tbody tr")
    expect(votes.nth(0)).to_contain_text("Ann")
    expect(votes.nth(0)).to_contain_text("Response 1 is better")
    expect(votes.nth(1)).to_contain_text("Response 2 is better")
    assert window.locator(".response .text").all_inner_texts() == ["good", "bad"]
    press(window, "ArrowLeft")
    confirm(window, path="/api/reviews")
    expect(window.get_by_role("heading", level=1)).to_have_text("Nothing to review")
    row = next(row for row in feedback.export() if row["role"] == "reviewer")
    assert by_response(row, row["ranks"]) == {"good": 1, "bad": 2}
    assert row["item_id"] == "pair-item"


def test_a_second_decision_is_refused(context: BrowserContext, feedback: Site) -> None:
    feedback.add(item("pair", "a", "b"))
    body = {"item_id": "pair-item", "answer": {"choice": "left"}}
    assert [feedback.admin.post("/api/reviews", json=body).status_code for _ in range(2)] == [201, 200]
    other = feedback.admin.post("/api/reviews", json=body | {"answer": {"choice": "right"}})
    assert (other.status_code, other.json()["field"]) == (409, "item_id")
    wrong = feedback.admin.post("/api/reviews", json=body | {"answer": {"choice": "up"}})
    assert (wrong.status_code, wrong.json()["field"]) == (422, "choice")
    missing = feedback.admin.post("/api/reviews", json=body | {"item_id": "none"})
    assert missing.status_code == 404


def test_accounts_are_kept_from_the_page(context: BrowserContext, feedback: Site) -> None:
    window = log_in(context, feedback, feedback.admin_token)
    window.goto(f"{feedback.url}/admin")
    window.get_by_label("Name", exact=True).fill("Dora")
    window.get_by_role("button", name="Add").click()
    token = window.locator("code.token").inner_text()
    assert feedback.admin.get("/api/progress", headers={"Authorization": f"Bearer {token}"}).status_code == 200
    window.get_by_label("Name", exact=True).fill("Dora")
    window.get_by_role("button", name="Add").click()
    expect(window.get_by_role("alert")).to_contain_text("there is an account 'Dora' already")
    window.get_by_label("Role of Dora", exact=True).select_option("reviewer")
    window.get_by_role("button", name="Set the role of Dora").click()
    expect(window.get_by_label("Role of Dora", exact=True)).to_have_value("reviewer")
    window.get_by_role("button", name="New token for Dora").click()
    assert window.locator("code.token").inner_text() != token
    window.get_by_text("Deactivate…").click()
    window.get_by_role("button", name="Yes, deactivate Dora for good").click()
    expect(window.locator("tr", has=window.get_by_role("rowheader", name="Dora"))).to_contain_text("closed (reviewer)")
    expect(window.locator("main")).to_contain_text("account removed")
    with window.expect_download() as download:
        window.get_by_role("link", name="Annotations (JSON lines)").click()
    assert download.value.suggested_filename == "annotations.jsonl"


def test_forms_of_other_sites_change_nothing(context: BrowserContext, feedback: Site) -> None:
    window = log_in(context, feedback, feedback.admin_token)
    for csrf in ("", "wrong"):
        answer = window.request.post(f"{feedback.url}/admin/annotators", form={"name": "Eve", "csrf": csrf})
        assert answer.status == 403
    assert "Eve" not in feedback.admin.get("/api/annotators").text


def test_agreement_and_quality(context: BrowserContext, feedback: Site) -> None:
    feedback.add(*(item("pair", "a", "b", item_id=f"pair-{n}", ask=f"{n}?") for n in range(2)))
    for name in ("Ann", "Ben"):
        window = log_in(context, feedback, feedback.account(name))
        open_work(window, feedback)
        for text in ("a", "b"):
            ready(window)
            press(window, ("ArrowLeft", "ArrowRight")[window.locator(".response .text").all_inner_texts().index(text)])
            confirm(window)
        window.close()
    window = log_in(context, feedback, feedback.admin_token)
    window.goto(f"{feedback.url}/admin/quality")
    expect(window.get_by_role("row", name="Compare two default")).to_contain_text("1.00")
    expect(window.locator("main")).to_contain_text("of 2 comparisons")


def test_the_language_is_chosen_in_the_page_and_remembered(page: Page, feedback: Site) -> None:
    feedback.add(item("pair", "a", "b"), item("spans", "a b c", ask="And this?"))
    open_work(page, feedback)
    page.get_by_role("button", name="中文").click()
    ready(page)
    expect(page.locator("html")).to_have_attribute("lang", "zh-CN")
    expect(page.get_by_role("heading", level=1)).to_have_text("哪个回答更好？")
    press(page, "Enter")
    expect(page.get_by_role("alert")).to_contain_text("请先选择：按 ← 或 → 选更好的一个")
    press(page, "ArrowDown")
    confirm(page)
    expect(page.locator("#status")).to_have_text("已保存。 标出错误之处")
    page.locator("#markable").press("Control+a")
    press(page, "w")
    expect(page.get_by_role("button", name="删除“a b c”上的标记")).to_be_visible()
    page.goto(f"{feedback.url}/")
    expect(page.get_by_role("heading", level=1)).to_have_text("Ann，您好")
    page.get_by_role("button", name="English").focus()
    press(page, "Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Hello, Ann")


def test_empty_pages_say_so(context: BrowserContext, feedback: Site) -> None:
    window = log_in(context, feedback, feedback.admin_token)
    for path, words in (
        ("/review", "Items on which annotators disagree"),
        ("/admin/quality", "No two people"),
        ("/work", "Nothing to do"),
    ):
        window.goto(feedback.url + path)
        expect(window.locator("main")).to_contain_text(words)
