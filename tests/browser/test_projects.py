"""Projects: made by an administrator, chosen by annotators, with keys alone, and in every size, language and scheme."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.browser.conftest import TIMEOUT_MS
from tests.browser.support import Site, confirm, item, log_in, press, problems_of, ready, site

PAGES = (
    "/",
    "/guide?project=tone",
    "/work?project=tone",
    "/projects",
    "/project?name=tone",
    "/admin/items",
    "/review?project=tone",
    "/admin/quality?project=tone",
    "/admin/progress",
)
GUIDE = "# Tone\n\nRate how polite it is.\n\n| mark | means |\n|---|---|\n| 1 | rude |\n| 5 | kind |\n"


def set_project(running: Site, name: str, **settings: object) -> None:
    answer = running.admin.post("/api/projects", json={"name": name, "settings": settings})
    assert answer.status_code == 201, answer.text


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Three projects with items, a group, and a quota."""
    with site(tmp_path_factory.mktemp("team"), gold_share=0.0) as running:
        aspects = [{"name": "polite", "description": "How polite is it?", "headings": {"zh_CN": "礼貌"}}]
        guide = {"en": GUIDE, "zh_CN": "# 语气\n\n请评价礼貌程度。"}
        set_project(running, "tone", title="Tone of voice", aspects=aspects, guidelines=guide, quota_day=50)
        set_project(running, "night", title="Donaudampfschifffahrtsgesellschaft", everyone=False, priority=-1)
        running.account("Ann")
        running.account("Zoë")
        for path, body in (
            ("/api/groups/doctors", {"people": ["Ann", "Zoë"]}),
            ("/api/projects/tone/roles", {"who": "@doctors", "role": "reviewer"}),
            ("/api/projects/tone/roles", {"who": "Ann", "role": "admin"}),
        ):
            assert running.admin.put(path, json=body).status_code == 200
        running.add(item("pair", "a", "b"))
        for name in ("tone", "night"):
            rows = [item("rate", f"Yes, {i}.", ask=f"Is it {name} {i}?", item_id=f"{name}-{i}") for i in range(3)]
            assert running.admin.post("/api/items", json=rows, params={"project": name}).status_code == 201
        yield running


@pytest.mark.parametrize(("scheme", "locale"), [("light", "en-GB"), ("dark", "zh-CN")])
@pytest.mark.parametrize("width", [1280, 390])
def test_pages_of_projects_are_clean(browser: Browser, team: Site, scheme: str, locale: str, width: int) -> None:
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme, locale=locale)
    context.set_default_timeout(TIMEOUT_MS)
    window = log_in(context, team, team.account(f"boss {scheme} {width}", "admin"))
    found = {}
    for path in PAGES:
        window.goto(team.url + path)
        found[path] = problems_of(window)
    context.close()
    assert {path: problems for path, problems in found.items() if problems} == {}


def test_an_annotator_chooses_a_project_by_keys(context: BrowserContext, team: Site) -> None:
    page = log_in(context, team, team.account("Kim"))
    rows = page.locator(".projects li")
    expect(rows).to_have_count(2)  # the third is not Kim's
    expect(rows.filter(has_text="Tone of voice")).to_contain_text("50 votes left for you today")
    page.get_by_role("link", name="Work on Tone of voice").focus()
    press(page, "Enter")
    ready(page)
    expect(page.get_by_role("link", name="Guide of Tone of voice")).to_be_visible()
    expect(page.locator(".scale")).to_have_count(1)
    for left in (2, 1):
        press(page, "4")
        confirm(page)
        assert page.url.endswith("/work?project=tone")
        expect(page.get_by_text(f"{3 - left} of 9 votes")).to_be_visible()
    page.goto(team.url)
    expect(rows.filter(has_text="Tone of voice")).to_contain_text("1 item is waiting for you")
    expect(rows.filter(has_text="Tone of voice")).to_contain_text("48 votes left for you today")


def test_an_administrator_makes_a_project(browser: Browser, tmp_path: Path) -> None:
    with site(tmp_path) as running:
        context = browser.new_context()
        context.set_default_timeout(TIMEOUT_MS)
        page = log_in(context, running, running.admin_token)
        page.goto(f"{running.url}/projects")
        page.get_by_label("Name", exact=True).fill("safety")
        page.get_by_label("Title", exact=True).fill("Is it safe?")
        press(page, "Enter")
        page.wait_for_url("**/project?name=safety")
        fill_settings(page)
        expect(page.get_by_role("heading", level=1)).to_have_text("Is it safe?")
        running.account("Zoë")
        page.get_by_label("Account or @group").fill("Zoë")
        page.get_by_role("button", name="Give").click()
        expect(page.get_by_role("row", name="Zoë")).to_contain_text("annotator")
        made = running.admin.get("/api/projects/safety").json()
        context.close()
    assert (made["settings"]["kinds"], made["settings"]["everyone"]) == (["pair"], False)
    assert made["settings"]["guidelines"] == {"en": "Be *careful*."}
    assert made["roles"] == [{"who": "Zoë", "role": "annotator"}]


def fill_settings(page: Page) -> None:
    """Pairs only, by those who were asked to."""
    for box in page.locator("[name=kinds]:not([value=pair])").all():
        box.uncheck()
    page.locator("[name=everyone]").uncheck()
    page.get_by_label("Guidelines in English (Markdown)").fill("Be *careful*.")
    page.get_by_role("button", name="Save").click()
    page.wait_for_load_state()
