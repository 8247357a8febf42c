"""Tutorials: their files are complete, and what they show without starting anything is run.

`tests/e2e/test_walk.py` walks the whole of the first one.
"""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import ray
from typer.testing import CliRunner

from mmrlhf_ray.cli.main import app
from mmrlhf_ray.demo.families import FAMILIES
from tests.contracts.pages import ROOT, blocks
from tests.contracts.walk import TUTORIALS, steps

PAGES = sorted(TUTORIALS.glob("*.md"))


def _starts_nothing(command: str) -> bool:
    return "--dry-run" in command or command.startswith("mmrlhf data check")


COMMANDS = [(page.stem, step.command) for page in PAGES for step in steps(page) if _starts_nothing(step.command)]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory as the tutorials leave it behind: their data, and the tiny model in the place of a trained one."""
    directory = tmp_path_factory.mktemp("desk")
    (directory / "jobs").symlink_to(ROOT / "jobs")
    for page in PAGES:
        for block in blocks(page):
            if block.file:
                (directory / block.file).write_text(block.text)
    subprocess.run([sys.executable, "make_data.py"], cwd=directory, check=True, timeout=120)
    for path in ("models/tiny", "runs/colours-sft/model"):
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        FAMILIES["qwen3_vl"](directory / path, 0)
    return directory


def test_there_is_something_to_run_on_every_page_with_a_job() -> None:
    assert {page for page, _ in COMMANDS} >= {"fifty-pictures", "your-reward", "one-gpu", "four-nodes"}
    assert len(COMMANDS) >= 8


@pytest.mark.parametrize(("page", "command"), COMMANDS, ids=[f"{page}: {command}" for page, command in COMMANDS])
def test_it_runs(page: str, command: str, desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(desk)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    done = CliRunner().invoke(app, shlex.split(command)[1:], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    if "--dry-run" in command:
        assert "Nothing was started." in done.stdout
    assert not ray.is_initialized()


def test_no_two_pages_have_different_files_of_one_name() -> None:
    seen: dict[str, str] = {}
    for page in PAGES:
        for block in blocks(page):
            if block.file:
                assert seen.setdefault(block.file, block.text) == block.text, block


def test_files_that_commands_name_are_on_the_page_or_an_earlier_one() -> None:
    known = {block.file for page in PAGES for block in blocks(page) if block.file}
    for page in PAGES:
        for step in steps(page):
            named = [word for word in step.command.split() if word.endswith((".py", ".yaml"))]
            assert {word for word in named if not word.startswith("jobs/")} <= known, step.command
