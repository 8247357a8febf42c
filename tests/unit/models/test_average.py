"""The mean of several models, against numpy in float64, and models that have none."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mmrlhf_ray.data.encoding.encode import Encoder
from mmrlhf_ray.errors import ConfigError, ModelError
from mmrlhf_ray.models import ScalarHead, export_model, load_policy, load_scalar, read_scalar_head
from mmrlhf_ray.models.average import average_models
from mmrlhf_ray.models.scalar_head import SCALAR_HEAD_FILE
from mmrlhf_ray.models.score_fit import SCORE_FIT_FILE, ScoreFit, write_score_fit

LAYOUT = ScalarHead(2, {"helpful": 1.0})


@torch.no_grad()
def reward_model(encoder: Encoder, start: Path, target: Path, seed: int, layout: ScalarHead = LAYOUT) -> Path:
    model = load_scalar(encoder.adapter, start, torch.float32, new_head=True, layout=layout)
    noise = torch.Generator().manual_seed(seed)
    tensors = {n: p + 0.1 * torch.randn(p.shape, generator=noise) for n, p in model.named_parameters()}
    export_model(encoder.adapter, start, target, tensors, scalar=True, layout=layout, shard_bytes=10**6 * (1 + seed))
    return target


def weights(path: Path) -> dict[str, torch.Tensor]:
    found = {}
    for file in sorted(path.glob("*.safetensors")):
        found |= load_file(file)
    return found


def test_every_weight_is_the_mean(omni_encoder: Encoder, omni: Path, tmp_path: Path) -> None:
    sources = [reward_model(omni_encoder, omni, tmp_path / f"m{seed}", seed) for seed in range(3)]
    write_score_fit(sources[0], ScoreFit())
    average_models(sources, tmp_path / "mean")
    got, all_of = weights(tmp_path / "mean"), [weights(source) for source in sources]
    assert got.keys() == all_of[0].keys() > {"weight"}
    for name, tensor in got.items():
        want = sum(own[name].numpy().astype(np.float64) for own in all_of) / 3
        np.testing.assert_array_equal(tensor.numpy(), want.astype(np.float32))
    assert read_scalar_head(tmp_path / "mean") == LAYOUT
    assert not (tmp_path / "mean" / SCORE_FIT_FILE).exists()
    assert load_scalar(omni_encoder.adapter, tmp_path / "mean", torch.float32, new_head=False).head.weight.shape[0] == 2


def test_a_policy_is_averaged_too(omni_encoder: Encoder, omni: Path, tmp_path: Path) -> None:
    average_models([omni, omni], tmp_path / "mean")
    want = load_policy(omni_encoder.adapter, omni, torch.float32).state_dict()
    got = load_policy(omni_encoder.adapter, tmp_path / "mean", torch.float32).state_dict()
    assert all(torch.equal(got[name], tensor) for name, tensor in want.items())


def test_models_that_differ_are_refused_by_name(omni_encoder: Encoder, omni: Path, vl: Path, tmp_path: Path) -> None:
    own = reward_model(omni_encoder, omni, tmp_path / "own", 0)
    head = reward_model(omni_encoder, omni, tmp_path / "head", 0, ScalarHead(3, {"helpful": 1.0}))
    for other, said in (
        (omni, "expected a reward model as .*own is, got a model that answers"),
        (head, "ensemble=2 and aspects=.* got ensemble=3"),
        (vl, "expected the model family of"),
    ):
        with pytest.raises(ModelError, match=said):
            average_models([own, other], tmp_path / "mean")
    other = reward_model(omni_encoder, omni, tmp_path / "other", 9)
    tensors = load_file(other / "model.safetensors")
    name = max(tensors)
    save_file(tensors | {name: tensors[name][:1].contiguous()}, other / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=rf"other: expected {name} with shape .* got shape \[1"):
        average_models([own, other], tmp_path / "mean")
    save_file({n: t for n, t in tensors.items() if n != name}, other / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=rf"{name} with shape .* got no such tensor"):
        average_models([own, other], tmp_path / "mean")
    assert not (tmp_path / "mean").exists()


def test_one_model_or_a_directory_that_is_there_is_refused(omni: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="two models or more to average, got 1"):
        average_models([omni], tmp_path / "mean")
    with pytest.raises(ConfigError, match="not there yet"):
        average_models([omni, omni], tmp_path)


def test_files_that_are_missing_are_named(omni: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in omni.iterdir():
        if file.suffix in (".json", ".jinja"):
            (broken / file.name).write_text(file.read_text())
    index = {"weight_map": {"a": "model-00001-of-00001.safetensors"}}
    (broken / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="model-00001-of-00001.safetensors is not there"):
        average_models([omni, broken], tmp_path / "mean")
    assert not (omni / SCALAR_HEAD_FILE).exists()
