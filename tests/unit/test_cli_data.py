"""The commands of `mmrlhf data`."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.pipelines.folder import bad_rows, demonstrations, media_folder, write_rows


def _data(*args: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "mmrlhf_ray.cli", "data", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = media_folder(tmp_path_factory.mktemp("data"))
    return str(write_rows(folder, [*demonstrations(), *bad_rows()]).path)


def test_check_ends_as_strict_says(path: str) -> None:
    done = _data("check", path)
    assert (done.returncode, "12 rows: 7 good, 5 bad" in done.stdout) == (0, True), done.stderr
    assert "check  done, 12 rows" in done.stderr
    assert _data("check", path, "--strict").returncode == 1


def test_convert_says_what_came(path: str, tmp_path: Path) -> None:
    done = _data("convert", path, tmp_path / "rows.jsonl", "--to", "trl", "--kind", "demonstration")
    assert done.returncode == 0, done.stderr
    assert f"{tmp_path / 'rows.jsonl'}: 7 rows, 4 media\n5 bad rows were left out" in done.stdout
    assert _data("convert", path, tmp_path / "rows.jsonl", "--to", "trl").returncode == 2


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["check", "/none.jsonl"], "error: data file /none.jsonl does not exist"),
        (["check", "rows", "--kind", "pairs"], "'pairs' is not a kind of record; expected one of prompt"),
        (["check", "rows", "--format", "alpaca"], "format 'alpaca' is unknown; expected one of mmrlhf, trl"),
    ],
)
def test_mistakes(args: list[str], said: str, path: str) -> None:
    done = _data(*[path if arg == "rows" else arg for arg in args])
    assert done.returncode == 2
    assert said in " ".join(done.stderr.replace("│", " ").split())
    assert "Traceback" not in done.stderr
