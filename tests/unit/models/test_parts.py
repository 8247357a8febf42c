"""Parts of every family: each parameter belongs to one; frozen ones stay; learning rates go to their groups."""

from collections import Counter
from pathlib import Path

import pytest
import torch

from mmrlhf_ray.config.parts import LoRAConfig, PartConfig, PartsConfig
from mmrlhf_ray.data.encoding.encode import Encoder
from mmrlhf_ray.errors import ModelError
from mmrlhf_ray.models import (
    HeadedModel,
    add_lora,
    check_trained,
    freeze_parts,
    load_policy,
    load_scalar,
    parameter_groups,
)
from mmrlhf_ray.models.headed import SCALAR_HEAD, part_of

FROZEN = PartConfig(train=False)


@pytest.fixture
def model(family_dir: Path, family_encoder: Encoder) -> HeadedModel:
    return load_policy(family_encoder.adapter, family_dir, torch.float32)


def test_every_parameter_belongs_to_one_part_and_every_part_has_some(
    family_encoder: Encoder, family_policy: HeadedModel
) -> None:
    adapter = family_encoder.adapter
    found = Counter(part_of(adapter, name, scalar=False) for name, _ in family_policy.named_parameters())
    assert found.keys() == adapter.parts.keys()
    assert set(adapter.parts) <= set(PartsConfig.model_fields)
    assert ("audio_tower" in adapter.parts) == ("audio" in adapter.placeholders)
    assert part_of(adapter, "head.weight", scalar=False) == "language_model"
    assert part_of(adapter, "head.weight", scalar=True) == SCALAR_HEAD


def test_a_parameter_of_no_part_is_named(vl_encoder: Encoder) -> None:
    with pytest.raises(ModelError, match=r"model\.talker\.weight belongs to no part of the qwen2_5_vl model"):
        part_of(vl_encoder.adapter, "backbone.model.talker.weight", scalar=False)


def test_frozen_parts_are_those_named(family_encoder: Encoder, model: HeadedModel) -> None:
    adapter = family_encoder.adapter
    for frozen in adapter.parts:
        model.requires_grad_(True)
        freeze_parts(model, adapter, PartsConfig(**{frozen: FROZEN}), scalar=False)
        for name, parameter in model.named_parameters():
            assert parameter.requires_grad == (part_of(adapter, name, scalar=False) != frozen), name


def test_groups_hold_every_trained_parameter_once_at_its_rate(family_encoder: Encoder, model: HeadedModel) -> None:
    adapter = family_encoder.adapter
    parts = PartsConfig(vision_tower=PartConfig(lr=0.5), projector=FROZEN)
    freeze_parts(model, adapter, parts, scalar=False)
    groups = {group.name: group for group in parameter_groups(model, adapter, parts, 0.1, scalar=False)}
    assert {name: group.lr for name, group in groups.items()} == {"": 0.1, "vision_tower": 0.5}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    grouped = {name: {names[id(p)] for p in group.parameters} for name, group in groups.items()}
    assert {part_of(adapter, n, scalar=False) for n in grouped["vision_tower"]} == {"vision_tower"}
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert grouped[""] | grouped["vision_tower"] == trained
    assert not grouped[""] & grouped["vision_tower"]


def test_without_parts_there_is_one_group(vl: Path, vl_encoder: Encoder) -> None:
    model = load_policy(vl_encoder.adapter, vl, torch.float32)
    (group,) = parameter_groups(model, vl_encoder.adapter, PartsConfig(), 0.1, scalar=False)
    assert (group.name, group.lr, len(group.parameters)) == ("", 0.1, len(list(model.parameters())))


def test_a_scalar_head_is_trained_whatever_is_frozen(vl: Path, vl_encoder: Encoder) -> None:
    model = load_scalar(vl_encoder.adapter, vl, torch.float32, new_head=True)
    parts = PartsConfig(language_model=FROZEN, vision_tower=FROZEN, projector=FROZEN)
    freeze_parts(model, vl_encoder.adapter, parts, scalar=True)
    assert [name for name, p in model.named_parameters() if p.requires_grad] == ["head.weight"]
    assert check_trained(vl, parts, None, "", scalar=True) == model.head.weight.numel()
    with pytest.raises(ModelError, match=r"learner\.parts: no part of the qwen2_5_vl model is trained"):
        check_trained(vl, parts, None, "learner.", scalar=False)


def test_trained_parameters_are_counted_without_loading(
    family_dir: Path, family_encoder: Encoder, model: HeadedModel
) -> None:
    parts = PartsConfig(vision_tower=FROZEN)
    freeze_parts(model, family_encoder.adapter, parts, scalar=False)
    assert check_trained(family_dir, parts, None, "", scalar=False) == sum(
        p.numel() for p in model.parameters() if p.requires_grad
    )


@pytest.mark.parametrize("config", [FROZEN, PartConfig(lr=1e-3)])
def test_a_part_that_the_family_lacks_is_refused_by_its_key(vl: Path, config: PartConfig) -> None:
    with pytest.raises(ModelError, match=r"learner\.parts\.audio_tower: a qwen2_5_vl model has no such part; it has"):
        check_trained(vl, PartsConfig(audio_tower=config), None, "learner.", scalar=False)


def test_an_adapter_of_this_size_is_counted_and_wrong_targets_are_named(vl: Path) -> None:
    # Two layers whose q_proj is 64 → 64.
    lora = LoRAConfig(rank=4, target_modules=("q_proj",))
    assert check_trained(vl, PartsConfig(), lora, "", scalar=False) == 2 * 4 * (64 + 64)
    wrong = LoRAConfig(target_modules=("q_prj",))
    with pytest.raises(ModelError, match=r"lora.target_modules names 'q_prj', which is not a linear layer of the qwen"):
        check_trained(vl, PartsConfig(), wrong, "", scalar=False)


ALONGSIDE = LoRAConfig(rank=4, target_modules=("q_proj",), also_train=("projector",))


def test_what_learns_alongside_an_adapter_is_counted_and_has_its_own_rate(vl: Path, vl_encoder: Encoder) -> None:
    adapter, parts = vl_encoder.adapter, PartsConfig(projector=PartConfig(lr=0.5))
    model = load_policy(adapter, vl, torch.float32)
    projector = {n for n, _ in model.named_parameters() if part_of(adapter, n, scalar=False) == "projector"}
    add_lora(model, adapter, ALONGSIDE, train_head=False, seed=0)
    freeze_parts(model, adapter, parts, scalar=False)
    groups = {group.name: group for group in parameter_groups(model, adapter, parts, 0.1, scalar=False)}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert {names[id(p)] for p in groups["projector"].parameters} == projector
    assert (groups["projector"].lr, groups[""].lr) == (0.5, 0.1)
    assert all(".lora_" in names[id(p)] for p in groups[""].parameters)
    trained = sum(p.numel() for group in groups.values() for p in group.parameters)
    assert check_trained(vl, parts, ALONGSIDE, "", scalar=False) == trained


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parts": ("audio_tower",)}, r"lora.parts: a qwen2_5_vl model has no audio_tower; it has language_model"),
        ({"also_train": ("audio_tower",)}, "lora.also_train: a qwen2_5_vl model has no audio_tower"),
        ({"parts": ("language_model", "projector")},
         r"lora.parts names projector, of which lora.target_modules has no linear layer; it has mlp\.0, mlp\.2"),
        ({"parts": ("projector",), "target_modules": ("mlp.0", "q_proj")},
         r"names 'q_proj', which is not a linear layer of the qwen2_5_vl projector; it has mlp\.0, mlp\.2"),
    ],
)  # fmt: skip
def test_an_adapter_that_does_not_fit_the_parts_is_refused(vl: Path, changes: dict, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        check_trained(vl, PartsConfig(), LoRAConfig(**changes), "", scalar=False)
