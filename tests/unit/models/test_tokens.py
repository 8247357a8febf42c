"""Models that exchange token ids must mean the same by them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmrlhf_ray.errors import ModelError
from mmrlhf_ray.models import check_same_tokens


def changed(source: Path, target: Path, file: str, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of a model directory, one JSON file of which is another."""
    shutil.copytree(source, target)
    content = json.loads((target / file).read_text())
    change(content)
    (target / file).write_text(json.dumps(content))
    return target


def test_copies_agree(omni: Path, tmp_path: Path) -> None:
    shutil.copytree(omni, tmp_path / "copy")
    check_same_tokens(omni, tmp_path / "copy", omni)
    check_same_tokens(omni)


def test_another_family_is_refused(omni: Path, vl: Path) -> None:
    with pytest.raises(ModelError, match="expected the model family of .*that is qwen2_5_omni.*, this is qwen2_5_vl"):
        check_same_tokens(omni, vl)


def test_a_token_with_another_number_is_named(vl: Path, tmp_path: Path) -> None:
    def swap(content: dict[str, Any]) -> None:
        vocabulary = content["model"]["vocab"]
        vocabulary["the"], vocabulary["is"] = vocabulary["is"], vocabulary["the"]

    other = changed(vl, tmp_path / "other", "tokenizer.json", swap)
    with pytest.raises(ModelError, match=r"expected the vocabulary of .*token 'is' is \d+ there and \d+ here"):
        check_same_tokens(vl, vl, other)


def test_a_control_token_that_is_plain_elsewhere_is_refused(vl: Path, tmp_path: Path) -> None:
    def plain(content: dict[str, Any]) -> None:
        next(t for t in content["added_tokens"] if t["content"] == "<|im_start|>")["special"] = False

    other = changed(vl, tmp_path / "other", "tokenizer.json", plain)
    with pytest.raises(ModelError, match="expected the control tokens of"):
        check_same_tokens(vl, other)


def test_another_end_of_responses_is_refused(vl: Path, tmp_path: Path) -> None:
    other = changed(vl, tmp_path / "other", "generation_config.json", lambda c: c.update(eos_token_id=0))
    with pytest.raises(ModelError, match=r"expected the tokens that end a response of .*this is \[0\]"):
        check_same_tokens(vl, other)
