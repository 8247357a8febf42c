"""The item list and an item's page, and erasing what somebody did."""

import re

from fastapi.testclient import TestClient

from tests.unit.feedback.test_api import vote
from tests.unit.feedback.test_app import csrf
from tests.unit.feedback.world import World, fill, pair

EVIL = '<script>alert("x")</script>'


def listed(browser: TestClient, query: str = "") -> list[str]:
    return re.findall(r'href="/admin/item\?id=[^"]*">([^<]*)</a>', browser.get(f"/admin/items{query}").text)


def test_items_are_searched_and_turned_over(world: World) -> None:
    fill(world.database, world.config, *(pair(f"{n}", item_id=f"n{n:02}") for n in range(60)))
    fill(world.database, world.config, {"prompt": EVIL, "question": "rate", "responses": [EVIL], "item_id": "a/b &"})
    browser = world.log_in("admin")
    assert listed(browser) == [f"n{n:02}" for n in range(50)]
    assert listed(browser, "?page=2") == [f"n{n:02}" for n in range(50, 60)] + ["a/b &amp;"]
    assert 'href="/admin/items?question=&amp;status=&amp;text=&amp;page=2"' in browser.get("/admin/items").text
    assert listed(browser, "?question=rate") == listed(browser, "?text=SCRIPT") == ["a/b &amp;"]
    assert listed(browser, "?status=done") == []
    assert len(listed(browser, "?status=nonsense&question=")) == 50
    page = browser.get("/admin/item", params={"id": "a/b &"}).text
    assert "&lt;script&gt;" in page
    assert EVIL not in page
    assert browser.get("/admin/item?id=none").status_code == 404


def test_an_item_shows_its_votes_and_is_changed_and_deleted(world: World) -> None:
    row = pair(item_id="a/b", suggestion={"answer": {"choice": "tie"}, "source": "judge"})
    fill(world.database, world.config, row, pair("r", item_id="r"))
    sent = vote(world, {"choice": "left", "critique": "because"})
    browser = world.log_in("admin")
    page = browser.get("/admin/item?id=a/b").text
    better = sent["item"]["order_shown"][0] + 1
    for words in ('<th scope="row">annotator</th>', f"Response {better} is better", "because", "judge: <code>"):
        assert words in page
    form = {"csrf": csrf(world, browser), "id": "a/b"}
    assert browser.post("/admin/item", data={"id": "a/b", "priority": "1", "overlap": "1"}).status_code == 403
    for wrong in (
        {"priority": "much", "overlap": "1"},
        {"priority": "1", "overlap": "0"},
        {"priority": "1", "overlap": "1.5"},
    ):
        answer = browser.post("/admin/item", data=form | wrong)
        assert answer.status_code == 422
        assert 'role="alert"' in answer.text
    assert browser.post("/admin/item", data=form | {"priority": "-2.5", "overlap": "7"}).status_code == 303
    (_, found) = world.call("admin", "GET", "/api/items").json()["items"]
    assert (found["item_id"], found["priority"], found["overlap"]) == ("a/b", -2.5, 7)
    assert world.call("admin", "PATCH", "/api/items/a/b", json={"overlap": 3}).json()["overlap"] == 3
    assert browser.post("/admin/item/delete", data=form).status_code == 303
    assert listed(browser) == ["r"]
    assert "item deleted" in browser.get("/admin").text


def test_what_somebody_did_is_erased_on_the_page(world: World) -> None:
    fill(world.database, world.config, pair(item_id="a"))
    vote(world, {"choice": "left"})
    browser = world.log_in("admin")
    (who,) = [row["id"] for row in world.call("admin", "GET", "/api/annotators").json() if row["name"] == "annotator"]
    path = f"/admin/annotators/{who}/erase"
    assert path in browser.get("/admin").text
    assert browser.post(path).status_code == 403
    assert browser.post(path, data={"csrf": csrf(world, browser)}).status_code == 303
    page = browser.get("/admin").text
    assert f"erased {who}" in page
    assert path not in page, "there is nothing left to erase"
    assert world.call("admin", "GET", "/api/export").text == ""
    (found,) = world.call("admin", "GET", "/api/items").json()["items"]
    assert found["votes"] == 0
