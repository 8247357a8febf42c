"""The documentation's site: `make docs` builds it without a warning, with every page in its navigation."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.contracts.pages import ROOT


class _Loader(yaml.SafeLoader):
    """Of mkdocs.yml, which names a Python function."""


_Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: suffix)


def _leaves(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    else:
        for part in nav.values() if isinstance(nav, dict) else nav:
            yield from _leaves(part)


def test_every_page_is_in_the_navigation() -> None:
    nav = set(_leaves(yaml.load((ROOT / "mkdocs.yml").read_text(), _Loader)["nav"]))
    ours = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    ours |= {"index.md" if path.name == "README.md" else path.name for path in ROOT.glob("*.md")}
    ours.add("cluster/README.md")
    assert sorted(ours - nav) == [], "pages that no reader would find: add them to `nav` in mkdocs.yml"
    assert sorted(nav - ours) == [], "`nav` in mkdocs.yml names pages that are not there"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` does."""
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return out


def test_pages_tables_and_lists_are_there(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 25
    for page in pages:
        text = re.sub(r"<pre.*?</pre>", "", page.read_text(), flags=re.S)
        assert not re.search(r"<p>(?:(?!</p>).)*\n(?:- |\d\. |\|)", text, re.S), (
            f"{page.name}: a list wants a blank line"
        )


def test_links_out_of_docs_lead_into_the_site(site: Path) -> None:
    assert 'href="tutorials/fifty-pictures.html"' in (site / "index.html").read_text()
    assert 'href="../cluster/index.html' in (site / "tutorials" / "fifty-pictures.html").read_text()
    assert (site / "jobs" / "qwen2.5-vl-7b-grpo-4nodes.yaml").is_file()


def test_modules_are_shown_with_their_docstrings(site: Path) -> None:
    page = (site / "api.html").read_text()
    assert 'id="mmrlhf_ray.algorithms.advantages.gae"' in page
    assert 'id="mmrlhf_ray.feedback.client.FeedbackClient.event"' in page
    assert ":::" not in page


def test_the_search_knows_the_pages(site: Path) -> None:
    found = json.loads((site / "search" / "search_index.json").read_text())["docs"]
    assert any("kl_horizon" in entry["text"] for entry in found)
    assert any(entry["location"].startswith("tutorials/fifty-pictures.html") for entry in found)


def test_pages_ask_no_other_host(site: Path) -> None:
    for page in site.rglob("*.html"):
        assert re.findall(r'(?:src|<link[^>]* href)="(?:https?:)?//[^"]+"', page.read_text()) == [], page.name
