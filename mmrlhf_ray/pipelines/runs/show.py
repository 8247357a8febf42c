"""Pages on runs, served to this machine only or written to one file."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from mmrlhf_ray.errors import RunError
from mmrlhf_ray.pipelines.runs.compare import labels
from mmrlhf_ray.pipelines.runs.pages import (
    Excerpt,
    compare_page,
    report_page,
    rollouts_page,
    run_page,
    style,
    version,
)
from mmrlhf_ray.pipelines.runs.read import Run, open_run
from mmrlhf_ray.pipelines.runs.rollouts import Wanted, kept_steps, read_step, select
from mmrlhf_ray.reports.curves import MOST_RUNS
from mmrlhf_ray.reports.media import find_media
from mmrlhf_ray.reports.page import write_page
from mmrlhf_ray.reports.prompts import data_uri
from mmrlhf_ray.reports.serving import Answer, page_policy, serve_pages

REPORT_FILE = "run.html"
"""In a run's directory."""
POLICY = page_policy(media="'self'", style="'self'", script="'self'", form="'self'")
_MEDIA = re.compile(r"/media/([0-9a-f]{64})")
_MOST_INLINE = 24 << 20
"""Bytes of media in one file."""
_EXCERPT = 4
"""Groups of each end."""


def show(directory: Path, port: int) -> None:
    """Serve the pages of a run, which may still go on, until Ctrl-C. Raises RunError where there is no run, or where
    the port is taken."""
    open_run(directory)
    serve_pages(partial(run_answer, directory), port, POLICY)


def compare(directories: Sequence[Path], port: int) -> None:
    """Serve the page of runs next to each other. Raises as show(), and RunError for another number of runs."""
    _opened(directories, least=2)
    serve_pages(partial(compare_answer, directories), port, POLICY)


def run_answer(directory: Path, path: str, query: Mapping[str, str]) -> Answer | None:
    """What `mmrlhf runs show` serves."""
    media = _MEDIA.fullmatch(path)
    if path == "/":
        return Answer.page(run_page(open_run(directory)))
    if path == "/rollouts":
        return Answer.page(rollouts_page(open_run(directory), query, partial(_address, directory)))
    if media is not None and (found := find_media(directory, media[1])) is not None:
        return Answer(found[0].read_bytes(), found[1])
    return _common(path, [directory])


def compare_answer(directories: Sequence[Path], path: str, query: Mapping[str, str]) -> Answer | None:
    """What `mmrlhf runs compare` serves."""
    if path == "/":
        return Answer.page(compare_page(_opened(directories, least=2), served=True))
    return _common(path, directories)


def write_report(directories: Sequence[Path], path: Path) -> Path:
    """Write one file about one run, or about several next to each other, with media inside; returns its path.

    Raises RunError where there is no run, or for more than MOST_RUNS.
    """
    runs = _opened(directories, least=1)
    excerpts = {name: found for name, run in zip(labels(runs), runs, strict=True) if (found := _excerpts(run))}
    write_page(path, report_page(runs, excerpts, _inline(directories)))
    return path


def _opened(directories: Sequence[Path], least: int) -> list[Run]:
    if not least <= len(directories) <= MOST_RUNS:
        raise RunError(f"expected {least} to {MOST_RUNS} runs, got {len(directories)}")
    return [open_run(directory) for directory in directories]


def _common(path: str, directories: Sequence[Path]) -> Answer | None:
    if path == "/style.css":
        return Answer.style(style())
    if path == "/live.js":
        script = Path(__file__).with_name("templates") / "live.js"
        return Answer(script.read_bytes(), "text/javascript; charset=utf-8")
    if path == "/live":
        runs = [open_run(directory) for directory in directories]
        now = {
            "version": "/".join(map(version, runs)),
            "state": runs[0].state,
            "step": max(run.done for run in runs),
        }
        return Answer(json.dumps(now).encode(), "application/json")
    return None


def _address(directory: Path, media_id: str) -> str | None:
    return None if find_media(directory, media_id) is None else f"/media/{media_id}"


def _excerpts(run: Run) -> list[Excerpt]:
    """The worst and the best of the last step that was kept."""
    steps = kept_steps(run.path)
    if not steps:
        return []
    step = max(steps)
    table, where = read_step(steps[step]), f" of step {step}" if len(steps) > 1 else ""
    if not len(table):
        return []
    return [
        Excerpt(f"The worst{where}", select(table, Wanted({}, order="worst"), _EXCERPT)),
        Excerpt(f"The best{where}", select(table, Wanted({}, order="best"), _EXCERPT)),
    ]


def _inline(directories: Sequence[Path]) -> Callable[[str], str | None]:
    """Media as data, until a file would be too large to open."""
    room, held = _MOST_INLINE, dict[str, str | None]()

    def source(media_id: str) -> str | None:
        nonlocal room
        if media_id not in held:
            found = next(filter(None, (find_media(directory, media_id) for directory in directories)), None)
            data = b"" if found is None else found[0].read_bytes()
            fits = found is not None and len(data) <= room
            held[media_id] = data_uri(found[1], data) if found is not None and fits else None
            room -= len(data) if fits else 0
        return held[media_id]

    return source
