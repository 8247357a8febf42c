"""Pages on runs: live while a run goes on, media, filters, on a phone, in the dark, hostile text."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from benchmarks.sample_report import sample_report
from benchmarks.sample_run import SampleRun, sample_run
from benchmarks.screens import WIDTHS, serving
from mmrlhf_ray.pipelines.runs.show import compare_answer, run_answer, write_report
from tests.browser.conftest import TIMEOUT_MS
from tests.browser.support import problems_of, until, violations_of

EVIL = '<script>window.stolen=1</script><img src=x onerror="window.stolen=1">'


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> SampleRun:
    found = sample_run(tmp_path_factory.mktemp("runs") / "my-ppo")
    found.go_on(4)
    ask = json.dumps([{"role": "user", "content": EVIL}])
    found.go_on(1, {"text": EVIL, "tokens": [], "messages": ask, "media_ids": [], "extras": json.dumps({EVIL: EVIL})}
        | {name: [] for name in ("response_token_ids", "response_mask", "rollout_logprobs", "old_logprobs",
                                 "ref_logprobs", "ratios", "advantages", "versions")})  # fmt: skip
    return found


@pytest.fixture
def address(run: SampleRun) -> Iterator[str]:
    with serving(partial(run_answer, run.path)) as address:
        yield address


@pytest.fixture
def window(browser: Browser) -> Iterator[Page]:
    """A test fails where the page's script does, or loads what the page may not."""
    context = browser.new_context(viewport={"width": 1280, "height": 860})
    context.set_default_timeout(TIMEOUT_MS)
    window = context.new_page()
    window.on("pageerror", lambda error: pytest.fail(f"the page's script failed: {error}"))
    window.on("console", lambda said: pytest.fail(said.text) if "Content Security Policy" in said.text else None)
    yield window
    context.close()


def test_new_steps_appear_while_one_looks(window: Page, tmp_path: Path) -> None:
    run = sample_run(tmp_path / "live")
    run.go_on(2)
    with serving(partial(run_answer, run.path)) as address:
        window.goto(address)
        expect(window.locator("#head")).to_contain_text("step 2 of 60")
        window.locator("#curves-1 summary").click()
        run.go_on(1)
        expect(window.locator("#head")).to_contain_text("step 3 of 60")
        expect(window.locator("#status")).to_have_text("stopped, 3 steps")
        assert not window.evaluate("document.querySelector('#curves-1').open")  # as it was left
        window.get_by_role("link", name="Responses").click()
        expect(window.locator("#groups")).to_contain_text("step 2:")
        run.go_on(1)
        expect(window.locator("#groups")).to_contain_text("step 3:")
        window.get_by_label("step", exact=False).first.select_option("0")
        expect(window.locator("#groups")).to_contain_text("step 0:")
        run.go_on(1)
        expect(window.locator("#steps")).to_contain_text("newest (4)")
        expect(window.locator("#groups")).to_contain_text("step 0:")  # which was asked for
    expect(window.locator("#status")).to_have_text("The command that serves this page does not answer.")


def test_media_play(window: Page, address: str) -> None:
    for step in range(4):
        window.goto(f"{address}/rollouts?step={step}")
        if window.locator("audio").count() and window.locator("video").count() and window.locator("img").count():
            break
    for kind in ("audio", "video"):
        clip = window.locator(kind).first
        clip.evaluate("clip => { clip.muted = true; clip.dataset.begun = ''; clip.play(); }")
        until(window, f"document.querySelector('{kind}').currentTime > 0")
    image = window.locator(".prompt img").first
    image.scroll_into_view_if_needed()
    until(window, "document.querySelector('.prompt img').naturalWidth > 0")


def test_filters_order_and_colours(window: Page, address: str, run: SampleRun) -> None:
    window.goto(f"{address}/rollouts?step=2")
    assert window.locator(".group").count() == 8
    window.get_by_label("order").select_option("worst")
    window.wait_for_url("**order=worst**")
    means = [sum(group) / len(group) for group in _scores(window)]
    assert means == sorted(means)
    assert all(group == sorted(group, reverse=True) for group in _scores(window))
    window.get_by_label("modality").select_option("image")
    window.wait_for_url("**modality=image**")
    assert all("image" in text for text in window.locator(".prompt h3").all_inner_texts())
    window.get_by_label("score from").fill("99")
    window.get_by_role("button", name="Show").click()
    expect(window.locator("#groups")).to_contain_text("No response is like that.")
    window.get_by_role("link", name="Show all of this step").click()
    expect(window.locator(".group")).to_have_count(8)
    strong = window.locator(".t[data-a='4']").first
    expect(strong).not_to_have_css("background-color", "rgba(0, 0, 0, 0)")
    window.get_by_label("nothing").check()
    expect(strong).to_have_css("background-color", "rgba(0, 0, 0, 0)")
    assert "advantage +" in str(strong.get_attribute("title"))
    window.get_by_label("words").fill("digit")
    window.get_by_role("button", name="Show").click()
    window.wait_for_url("**text=digit**")
    expect(window.get_by_label("nothing")).to_be_checked()


def _scores(window: Page) -> list[list[float]]:
    groups = window.locator(".group").all()
    return [
        [float(text.split()[0].replace("−", "-")) for text in group.locator(".score").all_inner_texts()]
        for group in groups
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", list(WIDTHS))
def test_every_page_is_accessible(browser: Browser, run: SampleRun, tmp_path: Path, width: int, scheme: str) -> None:
    report, demo = write_report([run.path], tmp_path / "run.html"), sample_report(tmp_path / "demo")
    both = write_report([run.path, run.path], tmp_path / "both.html")
    viewport = {"width": width, "height": WIDTHS[width]}
    context = browser.new_context(viewport=viewport, color_scheme=scheme, bypass_csp=True)  # type: ignore[arg-type]
    window, found = context.new_page(), {}
    with (
        serving(partial(run_answer, run.path)) as own,
        serving(partial(compare_answer, [run.path, run.path])) as compared,
    ):
        pages = [f"{own}/", f"{own}/rollouts?order=worst", f"{compared}/"]
        for page in [*pages, report.as_uri(), both.as_uri(), demo.as_uri()]:
            window.goto(page)
            problems = violations_of(window) if page == demo.as_uri() else problems_of(window)
            if problems:
                found[page] = problems
    context.close()
    assert not found, json.dumps(found, indent=1)


def test_texts_are_never_run(window: Page, address: str, run: SampleRun, tmp_path: Path) -> None:
    report = write_report([run.path], tmp_path / "run.html")
    for page in (f"{address}/rollouts?step=4", f"{address}/rollouts?text={EVIL}", report.as_uri()):
        window.goto(page)
        assert window.evaluate("window.stolen") is None
        if "text=" not in page:
            expect(window.locator("main")).to_contain_text(EVIL)
    assert window.locator("script:not([src])").count() == 0


def test_a_phone_shows_the_main_figure_of_the_demo_first(browser: Browser, tmp_path: Path) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844})
    window = context.new_page()
    window.goto(sample_report(tmp_path).as_uri())
    box = window.locator("dl.figures div").first.bounding_box()
    assert box is not None
    assert box["y"] + box["height"] < 844
    assert box["x"] + box["width"] <= 390
    expect(window.locator("dl.figures div").first).to_contain_text("gold reward")
    assert window.evaluate("document.documentElement.scrollWidth") <= 390
    window.get_by_label("worse").check()
    shown = window.locator(".card:visible").evaluate_all("cards => cards.map(card => card.dataset.change)")
    assert set(shown) == {"worse"}
    context.close()
