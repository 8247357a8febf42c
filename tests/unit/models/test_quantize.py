"""Weights of eight bits: written as compressed-tensors has them, and what they compute."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from mmrlhf_ray.data.batches.collate import collate
from mmrlhf_ray.data.encoding.encode import Encoder
from mmrlhf_ray.demo.families import FAMILIES
from mmrlhf_ray.errors import ModelError
from mmrlhf_ray.models import HeadedModel, adapter_for, load_policy
from mmrlhf_ray.models.quantize import SCHEMES, layers_of, quantize_model, round_layers
from tests.unit.tiny import mixed_rows

# Half a step of the largest weight of a row: 2/255 of it for integers; for e4m3, whose step grows, 1/16 of each.
INT8_STEP = 1 / 255
FP8_STEP = 1 / 16


def logits(model: HeadedModel, encoder: Encoder) -> Tensor:
    rows, features = mixed_rows(encoder)
    batch = collate(rows, [], features, 0)
    with torch.no_grad():
        return model(batch.response_positions, **batch.inputs)


@pytest.mark.parametrize("kind", SCHEMES)
def test_the_language_models_layers_are_rounded_and_nothing_else(vl: Path, tmp_path: Path, kind: str) -> None:
    adapter = adapter_for(vl)
    layers = layers_of(adapter, vl)
    assert len(layers.rounded) == 2 * 7, "of two blocks: q, k, v, o, gate, up, down"
    assert "lm_head" in layers.kept
    assert any(name.startswith("visual.") for name in layers.kept)
    quantize_model(vl, tmp_path / "out", layers, kind)
    before, after = (load_file(path / "model.safetensors") for path in (vl, tmp_path / "out"))
    for name, tensor in before.items():
        layer = name.removesuffix(".weight")
        if layer not in layers.rounded:
            assert torch.equal(tensor, after.pop(name)), name
            continue
        scale = after.pop(f"{layer}.weight_scale")
        assert scale.shape == (len(tensor), 1)
        if kind == "int8":
            packed, shape = after.pop(f"{layer}.weight_packed"), after.pop(f"{layer}.weight_shape")
            assert (packed.dtype, shape.tolist()) == (torch.int32, list(tensor.shape))
            continue
        stored = after.pop(name)
        assert stored.dtype == {"int8-dynamic": torch.int8}.get(kind, torch.float8_e4m3fn)
        close = (stored.float() * scale - tensor).abs()
        bound = tensor.abs().amax(1, keepdim=True) * INT8_STEP if kind.startswith("int8") else tensor.abs() * FP8_STEP
        assert bool((close <= bound * 1.01 + scale * 2**-9).all()), name
    assert after == {}
    config = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert config["quant_method"] == "compressed-tensors"
    assert config["quantization_status"] == "compressed"
    assert config["ignore"] == layers.ignored
    assert (config["config_groups"]["group_0"]["input_activations"] is None) == (not kind.endswith("dynamic"))


@pytest.mark.parametrize("kind", SCHEMES)
def test_the_model_computes_with_what_was_written(vl: Path, vl_encoder: Encoder, tmp_path: Path, kind: str) -> None:
    adapter = vl_encoder.adapter
    layers = layers_of(adapter, vl)
    quantize_model(vl, tmp_path / "out", layers, kind)
    model = load_policy(adapter, vl, torch.float32)
    before = logits(model, vl_encoder)
    round_layers(model.backbone, adapter, tmp_path / "out", layers, kind)
    after = logits(model, vl_encoder)
    error = float((after - before).abs().mean() / before.std())
    assert 0 < error < 0.2


def test_transformers_reads_it(vl: Path, vl_encoder: Encoder, tmp_path: Path) -> None:
    adapter = vl_encoder.adapter
    layers = layers_of(adapter, vl)
    quantize_model(vl, tmp_path / "out", layers, "int8")
    ours = load_policy(adapter, vl, torch.float32)
    round_layers(ours.backbone, adapter, tmp_path / "out", layers, "int8")
    theirs = load_policy(adapter, tmp_path / "out", torch.float32)
    assert torch.allclose(logits(theirs, vl_encoder), logits(ours, vl_encoder), atol=1e-4)


@pytest.mark.parametrize("family", [name for name in FAMILIES if "moe" not in name])
def test_what_vllm_joins_in_a_tower_is_not_rounded(family: str, tmp_path: Path) -> None:
    """vLLM reads q, k and v of a tower as one layer, and gate and up as another, under names of its own."""
    FAMILIES[family](tmp_path / "model", 0)
    layers = layers_of(adapter_for(tmp_path / "model"), tmp_path / "model")

    def ignored(name: str) -> bool:
        return any(re.match(pattern.removeprefix("re:"), name) for pattern in layers.ignored)

    assert not any(map(ignored, layers.rounded))
    assert all(map(ignored, layers.kept))
    inside = {name.rpartition(".")[0] for name in layers.kept if ".0." in name}
    assert inside
    assert all(ignored(f"{parent}.{joined}") for parent in inside for joined in ("qkv", "qkv_proj", "gate_up_proj"))


def test_a_reward_model_experts_and_a_second_time_are_refused(vl: Path, reward_model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="expected a model that answers, but this is a reward model"):
        layers_of(adapter_for(reward_model_dir), reward_model_dir)
    quantize_model(vl, tmp_path / "out", layers_of(adapter_for(vl), vl), "fp8")
    with pytest.raises(ModelError, match="config.json has quantization_config; give that one"):
        layers_of(adapter_for(tmp_path / "out"), tmp_path / "out")
    FAMILIES["qwen3_omni_moe"](tmp_path / "moe", 0)
    with pytest.raises(ModelError, match="weights of several experts, and a mixture of experts cannot be rounded"):
        layers_of(adapter_for(tmp_path / "moe"), tmp_path / "moe")
