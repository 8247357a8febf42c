"""Which language a page is in, and that nothing in it is in another."""

import re
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from uuid import uuid4

import pytest
from fastapi.testclient import TestClient

from mmrlhf_ray.config import FeedbackConfig
from mmrlhf_ray.errors import ConfigError
from mmrlhf_ray.feedback.app import create_app
from mmrlhf_ray.feedback.app.language import preferred
from mmrlhf_ray.feedback.app.templating import TEMPLATES
from tests.unit.feedback.world import World, fill, pair

CHINESE = {"accept-language": "zh-CN,zh;q=0.9,en;q=0.8"}
KINDS = {"rank": 2, "rate": 1, "correct": 1, "demonstrate": 0, "spans": 1, "critique": 1}
"""Kind → responses of its item."""


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("", "en"),
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh_CN"),
        ("zh", "zh_CN"),
        ("zh-Hant-TW", "zh_CN"),
        ("en-GB,zh;q=0.9", "en"),
        ("en;q=0.1, zh;q=0.2", "zh_CN"),
        ("zh;q=0, en", "en"),
        ("de, fr;q=0.5", "en"),
        ("de, zh;q=0.3", "zh_CN"),
        ("zh;q=nonsense, *;;", "en"),
    ],
)
def test_a_browser_gets_what_it_likes_best(header: str, language: str) -> None:
    assert preferred(header) == language


def lang(text: str) -> str:
    return text.split('<html lang="')[1].split('"')[0]


def test_the_switch_outweighs_the_browser_and_is_remembered(world: World) -> None:
    browser = world.log_in("annotator")
    assert lang(browser.get("/guide").text) == "en"
    assert lang(browser.get("/guide", headers=CHINESE).text) == "zh-CN"
    answer = browser.post("/language", data={"language": "zh_CN", "back": "/guide?x=1"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/guide?x=1")
    assert "Max-Age=31536000" in answer.headers["set-cookie"]
    assert lang(browser.get("/guide", headers={"accept-language": "en"}).text) == "zh-CN"
    assert browser.post("/language", data={"language": "en"}).status_code == 303
    assert lang(browser.get("/guide", headers=CHINESE).text) == "en"


@pytest.mark.parametrize(
    "back", ["https://example.org/", "//example.org/", "/\\example.org", "", "javascript:alert(1)"]
)
def test_the_switch_leads_to_pages_of_ours_only(world: World, back: str) -> None:
    answer = world.http.post("/language", data={"language": "zh_CN", "back": back}, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")


def test_an_unknown_language_is_refused(world: World) -> None:
    assert world.http.post("/language", data={"language": "xx"}).status_code == 422
    browser = world.log_in("annotator")
    browser.cookies.set("mmrlhf_language", "../../etc")
    assert lang(browser.get("/guide").text) == "en"


class _Words(HTMLParser):
    """Collects Latin words that are shown or read out, other than keys, code and what is marked as another language."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()
        self._inside: list[bool] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "link", "input", "img", "br"):
            other = any(name == "lang" and value != "zh-CN" for name, value in attrs)
            self._inside.append(other or tag in ("kbd", "code", "script", "textarea"))
        self._take(" ".join(value or "" for name, value in attrs if name in ("aria-label", "title", "alt")))

    def handle_endtag(self, tag: str) -> None:
        if self._inside:
            self._inside.pop()

    def handle_data(self, data: str) -> None:
        if not any(self._inside):
            self._take(data)

    def _take(self, text: str) -> None:
        named = re.sub(r"[0-9a-f]{16,}", "", text)  # ids made from the content
        self.found |= set(re.findall(r"[A-Za-z]{2,}", named))


NAMES = {"UTC", "JSON", "Lines", "Parquet", "Krippendorff", "JavaScript", "Feedback", "Shift", "Bradley", "Terry"}
"""Words that are the same in Chinese, and the title that the configuration sets."""
ACTORS = {"annotator", "reviewer", "admin", "client", "test", "testclient"}
"""Accounts and addresses of these tests."""


def latin(text: str) -> set[str]:
    words = _Words()
    words.feed(text)
    return words.found - NAMES - ACTORS


def test_nothing_in_a_chinese_page_is_english(world: World) -> None:
    # The prompts, responses and ids of this queue have no Latin words either.
    rows = [
        {"prompt": ask, "question": kind, "responses": list("甲乙"[:count]), "task": "数字"}
        for ask, (kind, count) in zip("一二三四五六", KINDS.items(), strict=True)
    ]
    fill(world.database, world.config, *rows, {**pair("问"), "responses": ["甲", "乙"], "item_id": "1", "task": "数字"})
    browser = world.log_in("admin")
    browser.headers.update(CHINESE)
    pages = {path: browser.get(path).text for path in ("/", "/guide", "/review", "/admin", "/nothing")}
    for role, side in (("annotator", "left"), ("reviewer", "right")):
        while (leased := world.call(role, "POST", "/api/lease")).status_code == 200:
            item = leased.json()
            if item["item_id"] != "1":
                skip = {"item_id": item["item_id"], "reason": "other"}
                assert world.call(role, "POST", "/api/skip", json=skip).status_code == 200
                continue
            answer = {"choice": side if item["order_shown"][0] == 0 else {"left": "right", "right": "left"}[side]}
            vote = {"vote_id": str(uuid4()), "item_id": "1", "answer": answer}
            assert world.call(role, "POST", "/api/votes", json=vote).status_code == 201
    pages |= {f"{path} with votes": browser.get(path).text for path in ("/review", "/admin/quality", "/admin")}
    pages |= {path: browser.get(path).text for path in ("/admin/items", "/admin/item?id=1", "/admin/items?text=no")}
    token = browser.cookies["mmrlhf_session"]
    assert token
    for _ in range(len(KINDS)):
        text = browser.get("/work").text
        kind = text.split("&#34;question&#34;: &#34;")[1].split("&#34;")[0]
        pages[kind] = text
        item_id = text.split("&#34;item_id&#34;: &#34;")[1].split("&#34;")[0]
        skip = {"item_id": item_id, "reason": "other"}
        assert world.call("admin", "POST", "/api/skip", json=skip).status_code == 200
    pages["done"] = browser.get("/work").text
    pages["login"] = TestClient(world.app, base_url="http://127.0.0.1", headers=CHINESE).get("/login").text
    assert set(KINDS) <= set(pages)
    assert {name: latin(text) for name, text in pages.items() if latin(text)} == {}
    assert {lang(text) for text in pages.values()} == {"zh-CN"}


def test_refusals_are_in_the_language_of_the_page(world: World) -> None:
    answer = world.call("annotator", "GET", "/admin", headers=CHINESE)
    assert "此操作需要角色 admin，而您的角色是 annotator" in answer.text
    vote = {"vote_id": str(uuid4()), "item_id": "none", "answer": {}}
    assert world.call("annotator", "POST", "/api/votes", json=vote, headers=CHINESE).json()["error"] == "没有这道题"
    assert world.call("annotator", "POST", "/api/votes", json=vote).json()["error"] == "there is no such item"


def test_dates_and_numbers_are_those_of_the_language() -> None:
    moment = datetime(2026, 3, 4, 15, 6, 7, tzinfo=UTC)
    source = "{{ moment | date }}|{{ moment | time }}|{{ 12345.678 | number(1) }}|{{ 0.257 | percent }}"
    shown = {
        language: templates.env.from_string(source).render(moment=moment).replace("\u202f", " ")
        for language, templates in TEMPLATES.items()
    }
    assert shown["zh_CN"] == "2026年3月4日|2026年3月4日 15:06:07|12,345.7|26%"
    assert shown["en"] == "Mar 4, 2026|Mar 4, 2026, 3:06:07 PM|12,345.7|26%"


def test_guidelines_and_aspects_of_a_project(tmp_path: Path) -> None:
    (tmp_path / "en.md").write_text("# Ours\n\n| a | b |\n|---|---|\n| **c** | <script>alert(1)</script> |\n")
    (tmp_path / "zh.md").write_text("# 我们的规范\n\n[坏](javascript:alert(1)) ![图](https://example.org/x.png)")
    config = FeedbackConfig(
        data_dir=str(tmp_path / "data"), guidelines={"en": str(tmp_path / "en.md"), "zh_CN": str(tmp_path / "zh.md")}
    )
    with TestClient(create_app(config), base_url="http://127.0.0.1") as http:
        state = http.app.state.feedback  # type: ignore[attr-defined]
        world = World(http.app, config, state.database, http)  # type: ignore[arg-type]
        from mmrlhf_ray.feedback.app.serve import _first_token

        world.tokens["admin"] = str(_first_token(state.database))
        english, chinese = (world.call("admin", "GET", "/guide", headers=h).text for h in ({}, CHINESE))
    assert "<h2>Ours</h2>" in english
    assert "<strong>c</strong>" in english
    assert "&lt;script&gt;alert(1)" in english
    assert "<h2>我们的规范</h2>" in chinese
    assert "<dt>有依据</dt><dd>只说看得到、听得到的内容。</dd>" in chinese
    assert 'href="javascript' not in chinese
    assert "<img" not in chinese.split("rich")[1].split("</section>")[0]


def test_guidelines_in_one_language_are_shown_in_all(tmp_path: Path) -> None:
    (tmp_path / "zh.md").write_text("规范")
    config = FeedbackConfig(data_dir=str(tmp_path / "data"), guidelines={"zh_CN": str(tmp_path / "zh.md")})
    app = create_app(config)
    language, html = app.state.feedback.guidelines_in("en")
    assert (language, html) == ("zh_CN", "<p>规范</p>\n")
    app.state.feedback.database.close()


def test_guidelines_that_cannot_be_read_stop_the_start(tmp_path: Path) -> None:
    config = FeedbackConfig(data_dir=str(tmp_path / "data"), guidelines={"en": str(tmp_path / "none.md")})
    with pytest.raises(ConfigError, match=r"guidelines\.en: .*none\.md cannot be read"):
        create_app(config)
