"""Where a run writes: a directory, or one that is uploaded to a URL."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from mmrlhf_ray.config import RunConfig
from tests.unit.pipelines.loop import loop_config


def config(**keys: object) -> RunConfig:
    return RunConfig.model_validate({"name": "run"} | keys)


def test_a_directory_is_where_it_stays(tmp_path: Path) -> None:
    cfg = config(output_dir=str(tmp_path))
    assert (cfg.run_dir, cfg.run_url) == (tmp_path / "run", None)


def test_a_url_has_a_directory_of_its_own_below_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cfg, other = config(output_dir="s3://bucket/runs/"), config(output_dir="s3://bucket/other")
    assert cfg.run_url == "s3://bucket/runs/run"
    assert cfg.run_dir.parents[1] == tmp_path / "mmrlhf" / "runs"
    assert cfg.run_dir.name == "run"
    assert cfg.run_dir != other.run_dir
    assert cfg.run_dir == config(output_dir="s3://bucket/runs/").run_dir
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cfg.run_dir.is_relative_to(tmp_path / "home" / ".cache" / "mmrlhf" / "runs")


def test_or_the_one_that_is_given(tmp_path: Path) -> None:
    cfg = config(output_dir="gs://bucket", work_dir=str(tmp_path))
    assert (cfg.run_dir, cfg.run_url) == (tmp_path / "run", "gs://bucket/run")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"work_dir": "/scratch"}, "work_dir=/scratch has no effect unless output_dir is a URL; leave it out"),
        ({"work_dir": "s3://b", "output_dir": "s3://b"}, "work_dir=s3://b must be a directory"),
    ],
)
def test_a_work_dir_that_makes_no_sense_is_refused(keys: dict[str, str], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        config(**keys)


def test_a_loop_needs_a_directory() -> None:
    with pytest.raises(ValidationError, match="output_dir=s3://b is a URL, and the jobs of a loop read each other"):
        loop_config(output_dir="s3://b")
