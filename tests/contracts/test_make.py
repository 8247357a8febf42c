"""Makefile: which Python an environment is made of, and when it is made anew. Nothing is installed here."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    """An environment of this Python that is ready."""
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    (tmp_path / "venv" / "bin" / "python").symlink_to(sys.executable)
    (tmp_path / "venv" / ".ready-cpu").touch()
    return tmp_path / "venv"


def _would_make(venv: Path, *variables: str) -> bool:
    command = ["make", "--dry-run", "setup", f"VENV={venv}", *variables]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    made, installed = "-m venv --clear" in done.stdout, "pip" in done.stdout
    assert made == installed
    return made


def test_an_environment_that_is_ready_stays(venv: Path) -> None:
    assert not _would_make(venv)
    assert not _would_make(venv, f"PYTHON={sys.executable}")


def test_another_python_replaces_it(venv: Path) -> None:
    other = venv.parent / "python"
    other.write_text("#!/bin/sh\necho /elsewhere 3.12.1\n")
    other.chmod(0o755)
    assert _would_make(venv, f"PYTHON={other}")


def test_a_python_that_does_not_fit_is_refused_and_replaces_nothing(venv: Path) -> None:
    command = ["make", "setup", f"VENV={venv}", "PYTHON=/nowhere/python3.10"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "setup: no Python 3.11, 3.12 or 3.13 at '/nowhere/python3.10'" in done.stderr
    assert (venv / ".ready-cpu").exists()
