"""The commands of `mmrlhf data`."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from mmrlhf_ray.cli.data import app
from tests.command import Here
from tests.unit.pipelines.folder import bad_rows, demonstrations, media_folder, write_rows


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = media_folder(tmp_path_factory.mktemp("data"))
    return str(write_rows(folder, [*demonstrations(), *bad_rows()]).path)


def test_check_ends_as_strict_says(here: Here, path: str) -> None:
    done = here("data", "check", path)
    assert (done.returncode, "12 rows: 7 good, 5 bad" in done.out) == (0, True), done.err
    assert "check  done, 12 rows" in done.err
    assert here("data", "check", path, "--strict").returncode == 1


def test_convert_says_what_came(here: Here, path: str, tmp_path: Path) -> None:
    done = here("data", "convert", path, str(tmp_path / "rows.jsonl"), "--to", "trl", "--kind", "demonstration")
    assert done.returncode == 0, done.err
    assert f"{tmp_path / 'rows.jsonl'}: 7 rows, 4 media\n5 bad rows were left out" in done.out
    assert here("data", "convert", path, str(tmp_path / "rows.jsonl"), "--to", "trl").returncode == 2


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["check", "/none.jsonl"], "error: data file /none.jsonl does not exist"),
        (["check", "rows", "--kind", "pairs"], "'pairs' is not a kind of record; expected one of prompt"),
        (["check", "rows", "--format", "alpaca"], "format 'alpaca' is unknown; expected one of mmrlhf, trl"),
    ],
)
def test_mistakes(here: Here, args: list[str], said: str, path: str) -> None:
    done = here("data", *[path if arg == "rows" else arg for arg in args])
    assert done.returncode == 2
    assert said in " ".join(done.err.replace("│", " ").split())
    assert "Traceback" not in done.err


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    (media_folder(tmp_path) / "pairs.csv").write_text("question,answer,sound,when\nHigh?,Yes.,tone.wav,today\n")
    return tmp_path / "pairs.csv"


NAMES = ["--columns", "question=prompt,answer=response", "--columns", "sound=audio, when="]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["check"], ": 1 good, 0 bad"),
        (["check", "--allow-host", "media.example.org", "--limit", "pixels=9,bytes=100"], "bytes, the limit is 100"),
        (["convert", "OUT.jsonl", "--to", "trl"], "OUT.jsonl: 1 rows, 1 media"),
        (["show", "--once", "OUT.html"], "OUT.html"),
    ],
)
def test_names_hosts_and_limits_are_options(pairs: Path, args: list[str], said: str) -> None:
    command, *others = [arg.replace("OUT", str(pairs.parent / "out")) for arg in args]
    done = CliRunner().invoke(app, [command, str(pairs), *others, *NAMES])
    assert done.exit_code == 0, done.output
    assert said.replace("OUT", str(pairs.parent / "out")) in done.output
    if command == "show":
        assert "today" not in (pairs.parent / "out.html").read_text()


def test_hosts_reach_the_configuration(pairs: Path) -> None:
    pairs.write_text("prompt,image\nWhat?,https://media.example.org/a.png\n")
    refused = CliRunner().invoke(app, ["check", str(pairs)])
    assert "name its host in data.remote.allow_hosts (--allow-host)" in refused.output
    other = CliRunner().invoke(app, ["check", str(pairs), "--allow-host", "example.com", "--allow-host", "example.net"])
    assert "is at host 'media.example.org', which is not in data.remote.allow_hosts" in other.output


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--limit", "metres=3"], "metres: Extra inputs are not permitted; expected a number for one of bytes, pixels"),
        (["--limit", "seconds=long"], "seconds: Input should be a valid number"),
        (["--limit", "seconds"], "'seconds' is not KEY=VALUE"),
        (["--columns", "=prompt"], "'=prompt' is not KEY=VALUE"),
        (["--columns", "a=b,a=c"], "'a' is given twice"),
    ],
)
def test_options_that_say_nothing(pairs: Path, args: list[str], said: str) -> None:
    done = CliRunner().invoke(app, ["check", str(pairs), *args])
    assert done.exit_code == 2
    assert said in " ".join(done.output.replace("│", " ").split())
