"""Families are told apart, and their parameters are named as checkpoints name them."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mmrlhf_ray.data.encoding.encode import Encoder
from mmrlhf_ray.errors import ConfigError, ModelError
from mmrlhf_ray.models import (
    HeadedModel,
    adapter_for,
    checkpoint_name,
    eos_token_ids,
    read_config,
)

# Where the names of released checkpoints begin; also what vLLM's loaders take.
RELEASED = {
    "qwen2_5_omni": {"thinker.audio_tower", "thinker.lm_head", "thinker.model", "thinker.visual"},
    "qwen2_5_vl": {"lm_head", "model.embed_tokens", "model.layers", "model.norm", "visual.blocks", "visual.merger"}
    | {"visual.patch_embed"},
}


def test_the_family_is_read_from_the_configuration(omni: Path, vl: Path) -> None:
    assert adapter_for(omni).family == "qwen2_5_omni"
    assert adapter_for(vl).family == "qwen2_5_vl"


def test_an_unknown_family_is_named_with_those_known(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    known = "qwen2_5_vl, qwen3_vl, qwen2_5_omni, qwen3_omni_moe, gemma3, internvl"
    words = rf"model_type is 'llama', which has no adapter of its own \(those with one: {known}\).* run `mmrlhf parity"
    with pytest.raises(ModelError, match=words):
        adapter_for(tmp_path)


def test_a_directory_without_a_configuration(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="found no config.json") as error:
        read_config(tmp_path)
    assert str(tmp_path) in str(error.value)
    assert isinstance(error.value, ConfigError)


def test_names_are_those_of_the_written_checkpoint(encoder: Encoder, policy: HeadedModel, omni: Path, vl: Path) -> None:
    path = {"qwen2_5_omni": omni, "qwen2_5_vl": vl}[encoder.adapter.family]
    saved = load_file(path / "model.safetensors")
    named = {checkpoint_name(encoder.adapter, name): p for name, p in policy.named_parameters()}
    assert set(named) == set(saved)
    assert all(torch.equal(parameter.detach(), saved[name]) for name, parameter in named.items())


def test_names_are_those_of_released_checkpoints(encoder: Encoder, policy: HeadedModel) -> None:
    names = {checkpoint_name(encoder.adapter, name) for name, _ in policy.named_parameters()}
    assert {".".join(name.split(".")[:2]).removesuffix(".weight") for name in names} == RELEASED[encoder.adapter.family]


@pytest.mark.parametrize(
    ("learner", "checkpoint"),
    [
        ("backbone.model.language_model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.weight"),
        ("backbone.model.language_model.embed_tokens.weight", "model.embed_tokens.weight"),
        ("backbone.model.visual.blocks.0.norm1.weight", "visual.blocks.0.norm1.weight"),
        ("head.weight", "lm_head.weight"),
    ],
)
def test_names_of_qwen2_5_vl(vl: Path, learner: str, checkpoint: str) -> None:
    assert checkpoint_name(adapter_for(vl), learner) == checkpoint


@pytest.mark.parametrize(("written", "read"), [(7, [7]), ([7, 8], [7, 8])])
def test_eos_is_a_number_or_a_list(tmp_path: Path, written: object, read: list[int]) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": written}))
    assert eos_token_ids(tmp_path) == read


@pytest.mark.parametrize("content", [None, {}, {"eos_token_id": None}])
def test_eos_must_be_there(tmp_path: Path, content: object) -> None:
    if content is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(content))
    with pytest.raises(ModelError, match=r"generation_config.json: expected eos_token_id .* add it"):
        eos_token_ids(tmp_path)


def test_control_tokens_cannot_be_sampled_but_the_end_can(encoder: Encoder) -> None:
    banned = [encoder.tokenizer.convert_ids_to_tokens(i) for i in encoder.banned_token_ids]
    placeholders = [getattr(encoder.processor, a) for a in encoder.adapter.placeholders.values()]
    ends = {encoder.tokenizer.convert_ids_to_tokens(i) for i in encoder.eos_token_ids}
    assert {*placeholders, "<|im_start|>", "<|endoftext|>"} - ends <= set(banned)
    assert "<|im_end|>" in ends
    assert not ends & set(banned)
    assert all(token.startswith("<") for token in banned), "no plain word is banned"
