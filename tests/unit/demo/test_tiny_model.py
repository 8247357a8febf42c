"""`python -m mmrlhf_ray.demo.tiny_model`."""

import json
import sys
from pathlib import Path

import pytest

from mmrlhf_ray.demo.tiny_model import main


def _run(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["tiny_model", *words])
    main()


def test_it_writes_a_model_of_the_family(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _run(monkeypatch, "qwen3_vl", str(tmp_path / "models" / "tiny"))
    written = tmp_path / "models" / "tiny"
    assert capsys.readouterr().out.splitlines()[-1] == str(written)
    assert json.loads((written / "config.json").read_text())["model_type"] == "qwen3_vl"
    assert (written / "model.safetensors").is_file()


def test_a_family_that_is_not_known_is_refused_with_those_that_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        _run(monkeypatch, "qwen9", str(tmp_path / "tiny"))
    assert ended.value.code == 2
    assert "qwen3_vl" in capsys.readouterr().err


def test_what_is_there_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text("mine")
    with pytest.raises(SystemExit) as ended:
        _run(monkeypatch, "qwen3_vl", str(tmp_path))
    assert ended.value.code == 2
    assert "exists already; choose another directory" in capsys.readouterr().err
    assert (tmp_path / "config.json").read_text() == "mine"
