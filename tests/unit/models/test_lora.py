"""Adapters: where they go, what they leave alone, and that merged, apart and reloaded they are the same model."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5OmniThinkerForConditionalGeneration

from mmrlhf_ray.config.parts import LoRAConfig
from mmrlhf_ray.data.batches.collate import Batch, collate
from mmrlhf_ray.data.encoding.encode import Encoder
from mmrlhf_ray.errors import ConfigError, ModelError
from mmrlhf_ray.models import (
    HeadedModel,
    ScalarHead,
    add_lora,
    export_lora,
    export_model,
    load_policy,
    load_scalar,
    lora_off,
    merged_weights,
    read_scalar_head,
    trained_weights,
)
from mmrlhf_ray.models.headed import part_of
from tests.unit.tiny import mixed_rows

CLASSES = {
    "qwen2_5_omni": Qwen2_5OmniThinkerForConditionalGeneration,
    "qwen2_5_vl": Qwen2_5_VLForConditionalGeneration,
}
LAYERS = {"qwen2_5_omni": "backbone.model.layers.", "qwen2_5_vl": "backbone.model.language_model.layers."}
CONFIG = LoRAConfig(rank=3, alpha=7.0)
EVERYWHERE = {
    "qwen2_5_omni": CONFIG.model_copy(
        update={
            "parts": ("language_model", "vision_tower", "audio_tower", "projector"),
            "target_modules": ("q_proj", "attn.proj", "fc1", "audio_tower.proj", "mlp.2"),
        }
    ),
    "qwen2_5_vl": CONFIG.model_copy(
        update={
            "parts": ("language_model", "vision_tower", "projector"),
            "target_modules": ("q_proj", "qkv", "mlp.0"),
        }
    ),
}
"""Of each family: some layers of every part."""


@pytest.fixture
def directory(encoder: Encoder, omni: Path, vl: Path) -> Path:
    return {"qwen2_5_omni": omni, "qwen2_5_vl": vl}[encoder.adapter.family]


@pytest.fixture(params=["language model", "everywhere"])
def config(request: pytest.FixtureRequest, encoder: Encoder) -> LoRAConfig:
    """Of an adapter in the language model alone, or in every part."""
    return CONFIG if request.param == "language model" else EVERYWHERE[encoder.adapter.family]


@pytest.fixture
def batch(encoder: Encoder) -> Batch:
    rows, features = mixed_rows(encoder)
    return collate(rows, [], features, 0)


def adapted(encoder: Encoder, directory: Path, config: LoRAConfig = CONFIG, *, trained: bool = True) -> HeadedModel:
    """A policy with an adapter; `trained` gives B numbers."""
    model = load_policy(encoder.adapter, directory, torch.float32)
    add_lora(model, encoder.adapter, config, train_head=False, seed=1)
    if trained:
        train(model)
    return model.eval()


@torch.no_grad()
def train(model: HeadedModel) -> None:
    noise = torch.Generator().manual_seed(2)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.add_(torch.randn(parameter.shape, generator=noise) * 0.2)


def tensors(weights: Iterator) -> dict[str, Tensor]:
    return {weight.name: weight.value().clone() for weight in weights}


@torch.no_grad()
def output(model: HeadedModel, batch: Batch) -> Tensor:
    return model(batch.response_positions, **batch.inputs)


def test_targets_of_the_language_model_are_trained_and_nothing_else(encoder: Encoder, directory: Path) -> None:
    plain = load_policy(encoder.adapter, directory, torch.float32)
    towers = [
        n for n, _ in plain.named_modules() if n.endswith(CONFIG.target_modules) and LAYERS["qwen2_5_vl"] not in n
    ]
    assert any("visual" in n or "audio_tower" in n for n in towers), "the towers must have layers of these names"
    prefix = LAYERS[encoder.adapter.family]
    wanted = {
        f"{name}.lora_{factor}.weight"
        for name, _ in plain.named_modules()
        if name.startswith(prefix) and name.endswith(CONFIG.target_modules)
        for factor in "AB"
    }
    assert {w.name for w in trained_weights(adapted(encoder, directory))} == wanted


def test_layers_of_every_part_are_trained_where_that_is_asked(encoder: Encoder, directory: Path) -> None:
    config = EVERYWHERE[encoder.adapter.family]
    found = Counter(
        (part_of(encoder.adapter, weight.name, scalar=False), target)
        for weight in trained_weights(adapted(encoder, directory, config))
        for target in config.target_modules
        if f".{target}.lora_" in weight.name
    )
    assert {part for part, _ in found} == set(config.parts)
    assert {target for _, target in found} == set(config.target_modules)
    assert found.total() == sum(1 for _ in trained_weights(adapted(encoder, directory, config)))


def test_a_part_that_learns_in_full_beside_an_adapter(encoder: Encoder, directory: Path, batch: Batch) -> None:
    adapter, config = encoder.adapter, CONFIG.model_copy(update={"also_train": ("projector",)})
    base = load_policy(adapter, directory, torch.float32)
    projector = {n for n, _ in base.named_parameters() if part_of(adapter, n, scalar=False) == "projector"}
    model = adapted(encoder, directory, config)
    trained = {weight.name for weight in trained_weights(model)}
    assert {name for name in trained if ".lora_" not in name} == projector != set()
    assert trained - projector == {weight.name for weight in trained_weights(adapted(encoder, directory))}
    with lora_off(model):
        assert not torch.equal(output(model, batch), output(base, batch)), "it is no longer what it was at the start"
    base.load_state_dict(tensors(merged_weights(model)), strict=False)
    torch.testing.assert_close(output(base, batch), output(model, batch), atol=1e-4, rtol=1e-4)


def test_only_what_is_named_gets_an_adapter(encoder: Encoder, directory: Path) -> None:
    config = CONFIG.model_copy(update={"target_modules": ("q_proj", "mlp.down_proj")})
    names = {w.name.split(".lora_")[0].rpartition(".")[2] for w in trained_weights(adapted(encoder, directory, config))}
    assert names == {"q_proj", "down_proj"}


@pytest.mark.parametrize("target", ["qkv_proj", "embed_tokens", "mlp", "lm_head", "fc1", "q_pro."])
def test_a_target_that_is_no_linear_layer_of_the_language_model(encoder: Encoder, directory: Path, target: str) -> None:
    config = CONFIG.model_copy(update={"target_modules": ("q_proj", target)})
    with pytest.raises(
        ModelError, match=rf"target_modules names '{target}', which is not a linear layer .* it has .*q_proj"
    ) as e:
        adapted(encoder, directory, config)
    assert isinstance(e.value, ConfigError)


@pytest.mark.parametrize("train_head", [False, True])
def test_the_head_is_trained_if_asked(omni_encoder: Encoder, omni: Path, train_head: bool) -> None:
    model = load_scalar(omni_encoder.adapter, omni, torch.float32, new_head=True)
    add_lora(model, omni_encoder.adapter, CONFIG, train_head=train_head, seed=0)
    assert ("head.weight" in {w.name for w in trained_weights(model)}) == train_head


def test_a_new_adapter_changes_nothing_and_a_trained_one_can_be_switched_off(
    encoder: Encoder, directory: Path, batch: Batch, config: LoRAConfig
) -> None:
    base = output(load_policy(encoder.adapter, directory, torch.float32), batch)
    assert torch.equal(output(adapted(encoder, directory, config, trained=False), batch), base)
    model = adapted(encoder, directory, config)
    changed = output(model, batch)
    assert float((changed - base).abs().max()) > 0.1
    with lora_off(model):
        assert torch.equal(output(model, batch), base)
    assert torch.equal(output(model, batch), changed)
    assert {w.name for w in trained_weights(model)}, "what was trained is trained again"


def test_nothing_to_switch_off_is_an_error(omni_encoder: Encoder, omni: Path) -> None:
    with (
        pytest.raises(ValueError, match="no adapter"),
        lora_off(load_policy(omni_encoder.adapter, omni, torch.float32)),
    ):
        pass


def test_merged_it_is_the_same_model(encoder: Encoder, directory: Path, batch: Batch, config: LoRAConfig) -> None:
    model, plain = adapted(encoder, directory, config), load_policy(encoder.adapter, directory, torch.float32)
    merged = tensors(merged_weights(model))
    assert set(merged) == set(dict(plain.named_parameters()))
    untouched = dict(plain.named_parameters())
    changed = {name for name, tensor in merged.items() if not torch.equal(tensor, untouched[name].detach())}
    assert changed == {w.name.split(".lora_")[0] + ".weight" for w in trained_weights(model)}
    plain.load_state_dict(merged, strict=False)
    torch.testing.assert_close(output(plain, batch), output(model, batch), atol=1e-4, rtol=1e-4)


def test_one_merged_weight_by_hand(omni_encoder: Encoder, omni: Path) -> None:
    model = adapted(omni_encoder, omni)
    name = "backbone.model.layers.0.self_attn.q_proj"
    parts, merged = tensors(trained_weights(model)), tensors(merged_weights(model))
    before = dict(load_policy(omni_encoder.adapter, omni, torch.float32).named_parameters())[f"{name}.weight"].detach()
    a, b = parts[f"{name}.lora_A.weight"], parts[f"{name}.lora_B.weight"]
    assert a.shape == (3, 128)
    torch.testing.assert_close(merged[f"{name}.weight"], before + b @ a * (7.0 / 3), atol=1e-6, rtol=1e-6)
    assert torch.equal(merged[f"{name}.bias"], dict(model.named_parameters())[f"{name}.base_layer.bias"].detach())


def test_first_weights_come_from_the_seed(omni_encoder: Encoder, omni: Path) -> None:
    def first(seed: int) -> dict[str, Tensor]:
        model = load_policy(omni_encoder.adapter, omni, torch.float32)
        add_lora(model, omni_encoder.adapter, CONFIG, train_head=False, seed=seed)
        return tensors(trained_weights(model))

    state = torch.get_rng_state()
    once, again, other = first(5), first(5), first(6)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(once[name], again[name]) for name in once)
    assert not all(torch.equal(once[name], other[name]) for name in once)


def test_adapters_have_the_models_type(omni_encoder: Encoder, omni: Path) -> None:
    model = load_policy(omni_encoder.adapter, omni, torch.bfloat16)
    add_lora(model, omni_encoder.adapter, CONFIG, train_head=False, seed=0)
    assert {w.value().dtype for w in (*trained_weights(model), *merged_weights(model))} == {torch.bfloat16}


@pytest.mark.filterwarnings("error:.*adapter keys")
def test_an_exported_adapter_loads_in_peft_and_equals_the_merged_export(
    encoder: Encoder, directory: Path, batch: Batch, config: LoRAConfig, tmp_path: Path
) -> None:
    model = adapted(encoder, directory, config)
    export_model(encoder.adapter, directory, tmp_path / "model", tensors(merged_weights(model)), scalar=False)
    export_lora(encoder.adapter, directory, tmp_path / "adapter", config, tensors(trained_weights(model)))
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"] == str(
        directory
    )
    want = output(model, batch)
    torch.testing.assert_close(
        output(load_policy(encoder.adapter, tmp_path / "model", torch.float32), batch), want, atol=1e-4, rtol=1e-4
    )
    again = load_policy(encoder.adapter, directory, torch.float32)
    assert isinstance(again.backbone, CLASSES[encoder.adapter.family])
    again.backbone = PeftModel.from_pretrained(again.backbone, tmp_path / "adapter").eval()
    torch.testing.assert_close(output(again, batch), want, atol=1e-6, rtol=1e-6)


def test_an_exported_adapter_of_a_reward_model_has_its_head(omni_encoder: Encoder, omni: Path, tmp_path: Path) -> None:
    layout = ScalarHead(ensemble=2)
    model = load_scalar(omni_encoder.adapter, omni, torch.float32, new_head=True, layout=layout)
    add_lora(model, omni_encoder.adapter, CONFIG, train_head=True, seed=0)
    train(model)
    target = tmp_path / "adapter"
    target.mkdir()
    (target / "stale").write_text("of an earlier export")
    export_lora(omni_encoder.adapter, omni, target, CONFIG, tensors(trained_weights(model)), layout=layout)
    assert torch.equal(load_file(target / "scalar_head.safetensors")["weight"], model.head.weight.detach())
    assert read_scalar_head(target) == layout
    assert not any("head" in name for name in load_file(target / "adapter_model.safetensors"))
    assert not (target / "stale").exists()
