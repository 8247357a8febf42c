"""What is exported loads again, in transformers too, with the trained numbers."""

import json
import shutil
import weakref
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import (
    AutoProcessor,
    GenerationConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5OmniThinkerForConditionalGeneration,
)

from mmrlhf_ray.config import LoRAConfig
from mmrlhf_ray.data.batches.collate import collate
from mmrlhf_ray.data.encoding.encode import Encoder
from mmrlhf_ray.errors import RunFailed
from mmrlhf_ray.models import HeadedModel, export_lora, export_model, load_policy, load_scalar
from mmrlhf_ray.models.scalar_head import SCALAR_HEAD_FILE
from mmrlhf_ray.models.verdict import VERDICT_FILE, description_digest
from tests.unit.tiny import mixed_rows

CLASSES = {
    "qwen2_5_omni": Qwen2_5OmniThinkerForConditionalGeneration,
    "qwen2_5_vl": Qwen2_5_VLForConditionalGeneration,
}


@pytest.fixture
def directory(encoder: Encoder, omni: Path, vl: Path) -> Path:
    return {"qwen2_5_omni": omni, "qwen2_5_vl": vl}[encoder.adapter.family]


def trained(model: HeadedModel) -> dict[str, torch.Tensor]:
    """Its parameters after something that changed each of them."""
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=noise) * 0.01)
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@torch.no_grad()
def test_a_policy_loads_in_transformers(encoder: Encoder, directory: Path, tmp_path: Path) -> None:
    model, target = load_policy(encoder.adapter, directory, torch.float32), tmp_path / "out" / "model"
    export_model(encoder.adapter, directory, target, trained(model), scalar=False)
    _, report = CLASSES[encoder.adapter.family].from_pretrained(target, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    rows, features = mixed_rows(encoder)
    batch = collate(rows[:2], [], features, 0)
    want = model(torch.arange(batch.inputs["input_ids"].numel()), **batch.inputs)
    got = encoder.adapter.load(target, torch.float32)(**batch.inputs).logits.flatten(0, 1)
    real = batch.inputs["attention_mask"].flatten().bool()
    torch.testing.assert_close(got[real], want[real], atol=1e-5, rtol=1e-5)
    assert AutoProcessor.from_pretrained(target).chat_template == encoder.processor.chat_template
    ends = [GenerationConfig.from_pretrained(path).eos_token_id for path in (target, directory)]
    assert ends[0] == ends[1]


def kinds(encoder: Encoder, ids: torch.Tensor) -> torch.Tensor:
    return torch.tensor(encoder.processor.create_mm_token_type_ids(ids.tolist()))


def test_names_and_files_are_those_of_the_source(encoder: Encoder, directory: Path, tmp_path: Path) -> None:
    model = load_policy(encoder.adapter, directory, torch.float32)
    export_model(encoder.adapter, directory, tmp_path / "model", dict(model.named_parameters()), scalar=False)
    assert {p.name for p in (tmp_path / "model").iterdir()} == {p.name for p in directory.iterdir()}
    source, target = (load_file(p / "model.safetensors") for p in (directory, tmp_path / "model"))
    assert set(source) == set(target)
    assert all(torch.equal(source[name], target[name]) for name in source)


def test_a_scalar_model_comes_back_with_its_head(encoder: Encoder, directory: Path, tmp_path: Path) -> None:
    tensors = trained(load_scalar(encoder.adapter, directory, torch.float32, new_head=True))
    export_model(encoder.adapter, directory, tmp_path / "model", tensors, scalar=True)
    again = load_scalar(encoder.adapter, tmp_path / "model", torch.float32, new_head=False)
    back = dict(again.named_parameters())
    assert set(back) == set(tensors)
    assert all(torch.equal(back[name].detach(), tensor) for name, tensor in tensors.items())
    assert set(load_file(tmp_path / "model" / SCALAR_HEAD_FILE)) == {"weight"}


def dtypes(config: object) -> set[str]:
    """Every dtype that a config.json names."""
    if not isinstance(config, dict):
        return set()
    own = {value for key, value in config.items() if key in ("dtype", "torch_dtype") and value is not None}
    return own.union(*(dtypes(value) for value in config.values()))


def test_the_configuration_says_the_dtype_of_the_tensors(vl_encoder: Encoder, vl: Path, tmp_path: Path) -> None:
    adapter, source = vl_encoder.adapter, vl
    for number, dtype in enumerate((torch.bfloat16, torch.float32, torch.bfloat16)):
        tensors = dict(load_policy(adapter, source, dtype).named_parameters())
        target = tmp_path / str(number)
        export_model(adapter, source, target, tensors, scalar=False)
        assert {t.dtype for t in load_file(target / "model.safetensors").values()} == {dtype}
        assert dtypes(json.loads((target / "config.json").read_text())) == {str(dtype).removeprefix("torch.")}
        assert {p.dtype for p in CLASSES["qwen2_5_vl"].from_pretrained(target, dtype="auto").parameters()} == {dtype}
        assert description_digest(target) == description_digest(vl)
        source = target


def test_only_files_that_belong_to_the_model_are_copied(omni_encoder: Encoder, omni: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(omni, source)
    own = ("LICENSE.txt", "merges.txt", "tokenizer.model", "additional_chat_templates/tools.jinja", VERDICT_FILE)
    stale = (
        "trainer_state.json",
        "training_args.bin",
        "adapter_config.json",
        "model.gguf",
        "README.md",
        "a.py",
        ".git/x",
    )
    stale += ("pytorch_model.bin", "spk_dict.pt", "model-00001-of-00002.safetensors", "model.safetensors.index.json")
    stale += (
        "checkpoint-5/config.json",
        "scalar_head.json",
        "onnx/model.onnx",
        "events.out.tfevents.1",
        "optimizer.pt",
    )
    for name in own + stale:
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_text("{}")
    tensors = dict(load_policy(omni_encoder.adapter, omni, torch.float32).named_parameters())
    export_model(omni_encoder.adapter, source, tmp_path / "model", tensors, scalar=False)
    found = {str(p.relative_to(tmp_path / "model")) for p in (tmp_path / "model").rglob("*") if p.is_file()}
    assert found == {p.name for p in omni.iterdir()} | set(own)


@torch.no_grad()
def test_a_large_model_is_written_file_by_file(omni_encoder: Encoder, omni: Path, tmp_path: Path) -> None:
    model, limit = load_policy(omni_encoder.adapter, omni, torch.float32), 100_000
    largest = max(parameter.nbytes for parameter in model.parameters())
    held: weakref.WeakSet[torch.Tensor] = weakref.WeakSet()

    def one_by_one() -> Iterator[tuple[str, torch.Tensor]]:
        for name, parameter in model.named_parameters():
            tensor = parameter.detach().clone()
            held.add(tensor)
            assert sum(t.nbytes for t in held) <= limit + 2 * largest, "more than a file's weights are held"
            yield name, tensor

    target = tmp_path / "model"
    export_model(omni_encoder.adapter, omni, target, one_by_one(), scalar=False, shard_bytes=limit)
    files = sorted(target.glob("*.safetensors"))
    assert len(files) > 3
    assert files[0].name == f"model-00001-of-{len(files):05d}.safetensors"
    sizes = [[tensor.nbytes for tensor in load_file(file).values()] for file in files]
    assert all(len(size) == 1 or sum(size) <= limit for size in sizes)
    index = json.loads((target / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(map(sum, sizes))
    assert index["weight_map"] == {name: file.name for file in files for name in load_file(file)}
    again = dict(load_policy(omni_encoder.adapter, target, torch.float32).named_parameters())
    assert all(torch.equal(again[name], parameter) for name, parameter in model.named_parameters())


def test_a_policy_from_a_reward_models_directory_has_no_scalar_head(
    omni_encoder: Encoder, omni: Path, tmp_path: Path
) -> None:
    tensors = dict(load_scalar(omni_encoder.adapter, omni, torch.float32, new_head=True).named_parameters())
    export_model(omni_encoder.adapter, omni, tmp_path / "reward", tensors, scalar=True)
    policy = dict(load_policy(omni_encoder.adapter, omni, torch.float32).named_parameters())
    export_model(omni_encoder.adapter, tmp_path / "reward", tmp_path / "policy", policy, scalar=False)
    assert not (tmp_path / "policy" / SCALAR_HEAD_FILE).exists()


def test_an_earlier_export_and_what_was_cut_short_are_replaced(
    omni_encoder: Encoder, omni: Path, tmp_path: Path
) -> None:
    target = tmp_path / "model"
    for leftover in (target, tmp_path / ".model.new", tmp_path / ".model.old"):
        leftover.mkdir()
        (leftover / "stale.safetensors").write_text("stale")
    tensors = dict(load_policy(omni_encoder.adapter, omni, torch.float32).named_parameters())
    export_model(omni_encoder.adapter, omni, target, tensors, scalar=False)
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    assert not (target / "stale.safetensors").exists()


def test_a_failed_export_leaves_the_earlier_one(omni_encoder: Encoder, omni: Path, tmp_path: Path) -> None:
    target = tmp_path / "model"
    target.mkdir()
    (target / "kept").write_text("kept")
    with pytest.raises(AttributeError):
        export_model(omni_encoder.adapter, omni, target, {"head.weight": None}, scalar=False)  # type: ignore[dict-item]
    assert (target / "kept").read_text() == "kept"
    assert [path.name for path in tmp_path.iterdir()] == ["model"], "and nothing of its own"


@pytest.mark.parametrize("adapter", [False, True])
def test_a_full_disk_is_named_and_leaves_the_earlier_export(
    omni_encoder: Encoder, omni: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, adapter: bool
) -> None:
    """The writers' own words for it, of Rust and of the operating system."""
    target = tmp_path / "model"
    target.mkdir()

    def full(*_: object, **__: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("mmrlhf_ray.models.export.save_file", full)
    own = omni_encoder.adapter
    export = (
        partial(export_lora, own, omni, target, LoRAConfig()) if adapter else partial(export_model, own, omni, target)
    )
    keys: dict[str, bool] = {} if adapter else {"scalar": False}
    with pytest.raises(RunFailed, match=rf"{target}: no room left to write it: the disk at /.* MiB free"):
        export(tensors={"backbone.weight": torch.zeros(1)}, **keys)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
