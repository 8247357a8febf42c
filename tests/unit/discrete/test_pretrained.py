"""Frozen CLIP and ViT features: those of transformers itself, never trained, saved or copied."""

import copy
import json

import pytest
import torch
from transformers import AutoImageProcessor, CLIPModel, ViTModel

from mmrlhf_ray.discrete.encoders import make_encoder
from mmrlhf_ray.discrete.pretrained import PretrainedFeatures
from tests.unit.discrete_nets import CLIP, net_job, save_clip_checkpoint, save_vit_checkpoint

MAKE = {"clip": save_clip_checkpoint, "vit": save_vit_checkpoint}


def reference(kind: str, path: str, pixels: torch.Tensor) -> torch.Tensor:
    if kind == "clip":
        return CLIPModel.from_pretrained(path).vision_model(pixel_values=pixels).pooler_output
    return ViTModel.from_pretrained(path, add_pooling_layer=False)(pixel_values=pixels).last_hidden_state[:, 0]


@pytest.mark.parametrize("kind", MAKE)
def test_features_are_those_of_the_checkpoint_with_its_own_processor(kind, tmp_path):
    path = MAKE[kind](tmp_path / kind)
    pictures = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    pixels = AutoImageProcessor.from_pretrained(path)(list(pictures), return_tensors="pt")["pixel_values"]
    features = PretrainedFeatures(path)
    with torch.no_grad():
        expected = reference(kind, path, pixels)
    torch.testing.assert_close(features(pictures / 255.0), expected, atol=1e-5, rtol=1e-4)
    assert features.size == expected.shape[1]


def test_other_sizes_and_grey_pictures_are_taken(tmp_path):
    features = PretrainedFeatures(save_clip_checkpoint(tmp_path))
    grey = torch.rand(2, 1, 9, 30)
    torch.testing.assert_close(features(grey), features(grey.expand(-1, 3, -1, -1)))


def test_the_tower_is_no_parameter_and_copies_share_it(tmp_path):
    section = CLIP | {"encoder": {"kind": "pretrained", "path": save_vit_checkpoint(tmp_path)}}
    modality = net_job(observation={"modalities": {"clip": section}}).observation.modalities["clip"]
    net = make_encoder("clip", modality, 8)
    assert sum(p.numel() for p in net.parameters()) == 16 * 8 + 8
    assert set(net.state_dict()) == {"frame.1.0.weight", "frame.1.0.bias"}
    twin = copy.deepcopy(net)
    assert twin.frame[0]._frozen is net.frame[0]._frozen
    net.train()
    assert not net.frame[0]._frozen.model.training


def test_what_is_no_picture_model_is_refused(tmp_path):
    save_vit_checkpoint(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "bert"}))
    with pytest.raises(ValueError, match="expected a model of clip, siglip, vit, dinov2, got 'bert'"):
        PretrainedFeatures(str(tmp_path))


def test_a_checkpoint_without_all_weights_is_refused(tmp_path):
    save_vit_checkpoint(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(ValueError, match="the checkpoint lacks .*layer"):
        PretrainedFeatures(str(tmp_path))
