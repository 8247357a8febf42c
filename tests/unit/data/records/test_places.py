from pathlib import Path

from mmrlhf_ray.config import DataConfig
from mmrlhf_ray.data.records.places import with_absolute_paths


def test_relative_paths_become_absolute_and_addresses_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = DataConfig(
        sources=[{"path": "a.jsonl"}, {"path": "/data/b.parquet"}, {"path": "s3://bucket/c.tar"}, {"path": "hf:d"}],
        media_root="media",
        spill_dir="spill",
        text={"clean": ["hooks.py:tidy"], "redact": ["builtin:pii", "hooks.py:hide"]},
    )
    got = with_absolute_paths(config)
    paths = [source.path for source in got.sources]
    assert paths == [str(tmp_path / "a.jsonl"), "/data/b.parquet", "s3://bucket/c.tar", "hf:d"]
    assert (got.media_root, got.spill_dir) == (str(tmp_path / "media"), str(tmp_path / "spill"))
    assert got.text.clean == (f"{tmp_path}/hooks.py:tidy",)
    assert got.text.redact == ("builtin:pii", f"{tmp_path}/hooks.py:hide")
    assert with_absolute_paths(got) == got


def test_one_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    got = with_absolute_paths(DataConfig(path="rows.jsonl", max_prompt_tokens=7))
    assert (got.path, got.max_prompt_tokens, got.media_root) == (str(Path("rows.jsonl").absolute()), 7, None)
