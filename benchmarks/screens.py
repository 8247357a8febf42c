"""Pictures of every page, wide, narrow and dark: `python -m benchmarks.screens OUT [PART...]`.

PART: runs, data, demo, feedback; all of them where none is named. Needs Chromium on PATH (`apt install chromium`) and
playwright, which `make setup` installs.
"""

import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from benchmarks.feedback_pictures import BROWSER, launch, take_pictures
from benchmarks.sample_report import sample_report
from benchmarks.sample_run import sample_run
from mmrlhf_ray.config import DataConfig
from mmrlhf_ray.demo.data import Sizes, build_data
from mmrlhf_ray.pipelines.data.show import write_page
from mmrlhf_ray.pipelines.runs.show import POLICY, compare_answer, run_answer, write_report
from mmrlhf_ray.reports.serving import HOST, Ask, page_server

WIDTHS = {1280: 860, 390: 844}
"""Width → height of the window, pixels."""
_SIZES = Sizes(
    demonstrations=13, prompts_train=7, prompts_heldout=7, tones=10, tones_heldout=10, clips=4, clips_heldout=4
)


@contextmanager
def serving(ask: Ask) -> Iterator[str]:
    """Pages in a thread of this process, on a free port of this machine; gives their address."""
    with page_server(ask, 0, POLICY) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://{HOST}:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def _runs(out: Path, browser: Browser) -> list[Path]:
    with tempfile.TemporaryDirectory() as directory:
        first, second = (Path(directory) / name for name in ("my-ppo", "my-grpo"))
        for seed, path in enumerate((first, second)):
            run = sample_run(path, seed, algorithm={"kl_coef": 0.02 * seed})
            run.go_on(40)
        run.end()
        report = write_report([first], first / "run.html")
        found = _taken(out, browser, {"run-report": report.as_uri()})
        with serving(partial(run_answer, first)) as address:
            pages = {"run": "/", "responses": "/rollouts?order=worst", "responses-found": "/rollouts?text=digit&low=1"}
            found += _taken(out, browser, {name: address + path for name, path in pages.items()})
        with serving(partial(compare_answer, [first, second])) as address:
            return found + _taken(out, browser, {"compare": f"{address}/"})


def _data(out: Path, browser: Browser) -> list[Path]:
    with tempfile.TemporaryDirectory() as directory:
        data, page = build_data(Path(directory) / "data", 0, _SIZES), Path(directory) / "data.html"
        write_page(DataConfig(path=str(data.demonstrations), on_bad_row="quarantine"), None, 10, page)
        return _taken(out, browser, {"data": page.as_uri()})


def _demo(out: Path, browser: Browser) -> list[Path]:
    with tempfile.TemporaryDirectory() as directory:
        return _taken(out, browser, {"demo-report": sample_report(Path(directory)).as_uri()})


def _feedback(out: Path, browser: Browser) -> list[Path]:
    return take_pictures(out, browser, WIDTHS)


PARTS: Mapping[str, Callable[[Path, Browser], list[Path]]] = {
    "runs": _runs,
    "data": _data,
    "demo": _demo,
    "feedback": _feedback,
}


def take_screens(out: Path, browser: Browser, parts: Sequence[str] = tuple(PARTS)) -> list[Path]:
    """PNG files `<page>-<width>.png` and `<page>-dark.png`; returns their paths."""
    out.mkdir(parents=True, exist_ok=True)
    return [path for part in parts for path in PARTS[part](out, browser)]


def _taken(out: Path, browser: Browser, pages: Mapping[str, str]) -> list[Path]:
    """Pictures of the first screens of pages, by name."""
    found = []
    looks = [(str(width), width, "light") for width in WIDTHS] + [("dark", 1280, "dark")]
    for label, width, scheme in looks:
        context = browser.new_context(viewport={"width": width, "height": WIDTHS[width]}, color_scheme=scheme)  # type: ignore[arg-type]
        window = context.new_page()
        for name, address in pages.items():
            window.goto(address)
            path = out / f"{name}-{label}.png"
            height = min(2200, window.evaluate("document.documentElement.scrollHeight"))
            window.set_viewport_size({"width": width, "height": height})
            window.screenshot(path=path, animations="disabled")
            window.set_viewport_size({"width": width, "height": WIDTHS[width]})
            found.append(path)
        context.close()
    return found


if __name__ == "__main__":
    if len(sys.argv) < 2 or {*sys.argv[2:]} - {*PARTS} or shutil.which(BROWSER) is None:
        raise SystemExit(f"usage: python -m benchmarks.screens OUT [{' '.join(PARTS)}] (with {BROWSER} on PATH)")
    with sync_playwright() as playwright:
        for picture in take_screens(Path(sys.argv[1]), launch(playwright), sys.argv[2:] or tuple(PARTS)):
            print(picture)
