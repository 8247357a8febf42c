"""`mmrlhf parity` with the real vLLM: what agrees passes, and what cannot is refused with the reason."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mmrlhf_ray.demo.families import FAMILIES
from mmrlhf_ray.models import adapter_for
from mmrlhf_ray.models.families.generic import GenericAdapter
from mmrlhf_ray.models.verdict import Verdict, read_verdict
from tests.command import Finished
from tests.e2e.support import mmrlhf
from tests.unit.tiny_families import build_llava, build_mistral3

PATIENCE_S = 600.0


def parity(build: Callable[[Path, int], None], path: Path) -> tuple[Finished, Verdict]:
    build(path, 0)
    finished = mmrlhf("parity", str(path), cwd=path.parent, timeout_s=PATIENCE_S)
    verdict = read_verdict(path)
    assert verdict is not None
    return finished, verdict


def test_a_family_agrees_in_every_modality_before_and_after_a_push(tmp_path: Path) -> None:
    finished, verdict = parity(FAMILIES["qwen2_5_vl"], tmp_path / "model")
    assert finished.returncode == 0, finished.err
    assert {row.case for row in verdict.rows} == {*("text", "image", "three images", "video", "video + image", "turns")}
    for row in verdict.rows:
        assert row.equal_ids
        assert max(row.before or 1, row.after or 1) <= 1e-4


def test_images_that_the_sampler_reads_otherwise_are_refused(tmp_path: Path) -> None:
    """The text rows also cover a push to a vocabulary head that is the embedding."""
    finished, verdict = parity(FAMILIES["gemma3"], tmp_path / "model")
    assert finished.returncode == 1
    rows = {row.case: row for row in verdict.rows}
    assert rows["text"].passed
    assert "reads an image from left to right; gemma3" in rows["image"].detail
    assert "reads an image from left to right; gemma3" in finished.out


def test_a_family_without_an_adapter_is_used_once_it_passed(tmp_path: Path) -> None:
    finished, verdict = parity(build_mistral3, tmp_path / "model")
    assert finished.returncode == 0, finished.out
    assert verdict.passed
    assert isinstance(adapter_for(tmp_path / "model"), GenericAdapter)


def test_a_family_that_vllm_does_not_load_is_refused_with_its_reason(tmp_path: Path) -> None:
    finished, verdict = parity(build_llava, tmp_path / "model")
    assert finished.returncode == 1
    assert verdict.reason
    assert "nothing could be compared" in finished.out
    with pytest.raises(ValueError, match="`mmrlhf parity` failed on it"):
        adapter_for(tmp_path / "model")
    assert json.loads((tmp_path / "model" / "mmrlhf_parity.json").read_text())["passed"] is False
