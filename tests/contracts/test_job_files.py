"""`mmrlhf JOB FILE --dry-run` does for every file of jobs/, and starts nothing."""

from pathlib import Path

import pytest
import ray
from typer.testing import CliRunner

from mmrlhf_ray.cli.main import app
from mmrlhf_ray.config import read_job_kind

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "jobs").glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_dry_run(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    kind = read_job_kind(path)
    done = CliRunner().invoke(app, [kind.value, str(path.relative_to(ROOT)), "--dry-run"], catch_exceptions=False)
    assert done.exit_code == 0
    assert "Nothing was started." in done.stdout
    assert not ray.is_initialized()
