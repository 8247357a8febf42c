"""The `mmrlhf` command in the process of a test."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from mmrlhf_ray.cli import main as cli

COMMAND = str(Path(sys.executable).with_name("mmrlhf"))


@dataclass(frozen=True)
class Finished:
    """A command that has ended."""

    returncode: int
    out: str
    err: str


Here = Callable[..., Finished]


def in_process(capture: pytest.CaptureFixture[str], *arguments: str, cwd: Path) -> Finished:
    """Run the command in this process, from its arguments to its exit status: no Python starts and imports anew."""
    capture.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        for key, value in cli.QUIET.items():
            patch.setenv(key, os.environ.get(key, value))  # main() sets them for the process; here for this command
        patch.setattr(sys, "argv", [COMMAND, *arguments])
        patch.chdir(cwd)
        with pytest.raises(SystemExit) as ended:
            cli.main()
    assert isinstance(ended.value.code, int), ended.value.code
    return Finished(ended.value.code, *capture.readouterr())
