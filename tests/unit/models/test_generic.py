"""Families without an adapter of their own: what is found out about them, and when they may be used."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mmrlhf_ray.data.batches.collate import TokenRow, collate
from mmrlhf_ray.data.encoding.encode import load_encoder
from mmrlhf_ray.errors import ModelError
from mmrlhf_ray.models import adapter_for, checkpoint_tensors, load_policy
from mmrlhf_ray.models.families.generic import GenericAdapter
from mmrlhf_ray.models.headed import part_of
from mmrlhf_ray.models.verdict import (
    VERDICT_FILE,
    ParityRow,
    Verdict,
    description_digest,
    read_verdict,
    versions,
    write_verdict,
)
from mmrlhf_ray.pipelines.parity.cases import make_cases
from tests.unit.tiny_families import build_llava, build_mistral3


@pytest.fixture(scope="module", params=[build_mistral3, build_llava])
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("generic") / "model"
    build: Callable[[Path, int], None] = request.param
    build(path, 0)
    return path


def verdict(path: Path, **changed: object) -> Verdict:
    row = ParityRow("image", True, 1e-6, 1e-6, 1.0, 10, True)
    return replace(Verdict("mistral3", True, (row,), versions(), description_digest(path)), **changed)


def test_names_parts_and_placeholders_are_found_out(directory: Path) -> None:
    encoder = load_encoder(directory, unverified=True)
    adapter = encoder.adapter
    assert isinstance(adapter, GenericAdapter)
    assert adapter.placeholders == {"image": "image_token"}
    model = load_policy(adapter, directory, torch.float32)
    saved = load_file(directory / "model.safetensors")
    named = {n: t for k, p in model.named_parameters() for n, t in checkpoint_tensors(adapter, k, p.detach())}
    assert set(named) == set(saved)
    assert all(torch.equal(tensor, saved[name]) for name, tensor in named.items())
    assert {part_of(adapter, n, scalar=False) for n, _ in model.named_parameters()} == set(adapter.parts)
    assert set(adapter.parts) == {"language_model", "vision_tower", "projector"}


@torch.no_grad()
def test_a_batch_is_one_row_after_the_other(directory: Path) -> None:
    encoder = load_encoder(directory, unverified=True)
    model = load_policy(encoder.adapter, directory, torch.float32)
    for case in make_cases(encoder):
        columns = (case.prompts.column(name).to_pylist() for name in ("prompt_token_ids", "media_ids"))
        rows = [TokenRow(ids, [30, 31, 32], media) for ids, media in zip(*columns, strict=True)]
        batch = collate(rows, [], case.features, 0)
        together = model(batch.response_positions, **batch.inputs).split(3)
        for row, want in zip(rows, together, strict=True):
            one = collate([row], [], case.features, 0)
            torch.testing.assert_close(model(one.response_positions, **one.inputs), want, atol=5e-5, rtol=0)


def test_rows_that_nobody_can_divide_are_refused(directory: Path) -> None:
    adapter = load_encoder(directory, unverified=True).adapter
    outputs = dict.fromkeys(adapter.feature_keys["image"], np.zeros((5, 3)))
    with pytest.raises(ValueError, match=r"returned 5 rows of pixel_values for 2 clips, .* write an adapter"):
        adapter.item_rows(None, "pixel_values", outputs, ["image", "image"])


def test_grids_divide_packed_rows(directory: Path) -> None:
    adapter = replace(
        load_encoder(directory, unverified=True).adapter, feature_keys={"image": ("pixel_values", "image_grid_thw")}
    )
    outputs = {"pixel_values": np.zeros((10, 2)), "image_grid_thw": np.array([[1, 2, 2], [1, 2, 3]])}
    assert adapter.item_rows(None, "pixel_values", outputs, ["image", "image"]) == [4, 6]


def test_such_a_directory_needs_a_verdict(directory: Path) -> None:
    with pytest.raises(ModelError, match=r"which has no adapter of its own \(.*\); .* run `mmrlhf parity .*model`"):
        adapter_for(directory)
    file = write_verdict(directory, verdict(directory))
    try:
        assert file == directory / VERDICT_FILE
        assert read_verdict(directory) == verdict(directory)
        assert isinstance(adapter_for(directory), GenericAdapter)
        failed = ParityRow("image", False, None, None, None, 0, False, "token 3")
        for changed, words in (
            ({"passed": False, "rows": (failed,)}, r"`mmrlhf parity` failed on it \(image\); write an adapter"),
            ({"passed": False, "rows": (), "reason": "no such kernel"}, r"failed on it \(no such kernel\)"),
            ({"versions": {"transformers": "4.0"}}, r"its versions changed since `mmrlhf parity` passed .*4\.0"),
            ({"described_by": "0"}, "its configuration files changed since"),
        ):
            write_verdict(directory, verdict(directory, **changed))
            with pytest.raises(ModelError, match=words):
                adapter_for(directory)
        file.write_text(json.dumps({"passed": True}))
        with pytest.raises(ModelError, match="expected what `mmrlhf parity` writes"):
            adapter_for(directory)
    finally:
        file.unlink()


def test_a_verdict_holds_for_other_weights_and_no_other_processor(directory: Path, tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (tmp_path / name).write_bytes((directory / name).read_bytes())
    before = description_digest(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"other")
    assert description_digest(tmp_path) == before
    (tmp_path / "chat_template.jinja").write_text("{{ other }}")
    assert description_digest(tmp_path) != before
