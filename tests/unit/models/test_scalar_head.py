"""The layout of a reward model's head: score, uncertainty, files, and the one row that a critic starts from."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mmrlhf_ray.data.batches.collate import collate
from mmrlhf_ray.data.encoding.encode import Encoder
from mmrlhf_ray.errors import ModelError
from mmrlhf_ray.models import ScalarHead, export_model, load_critic, load_scalar, read_scalar_head
from mmrlhf_ray.models.scalar_head import LAYOUT_FILE, SCALAR_HEAD_FILE, new_weight, write_scalar_head
from tests.unit.tiny import mixed_rows

LAYOUT = ScalarHead(ensemble=2, aspects={"helpful": 0.5, "honest": -2.0, "short": 1.0})


def exported(encoder: Encoder, source: Path, target: Path, layout: ScalarHead) -> dict[str, torch.Tensor]:
    """A reward model with that head of random weights; its parameters."""
    model = load_scalar(encoder.adapter, source, torch.float32, new_head=True, layout=layout)
    torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(3))
    tensors = {name: parameter.detach() for name, parameter in model.named_parameters()}
    export_model(encoder.adapter, source, target, tensors, scalar=True, layout=layout)
    return tensors


def test_aspects_are_weighted_and_members_averaged() -> None:
    outputs = torch.tensor([[2.0, 1.0, 4.0, 0.0, 0.5, 2.0], [0.0, 0.0, 0.0, 0.0, 0.0, 0.0]])
    # Members: 1 − 2 + 4 = 3 and 0 − 1 + 2 = 1.
    assert LAYOUT.member_scores(outputs).tolist() == [[3.0, 1.0], [0.0, 0.0]]
    score, uncertainty = LAYOUT.score(outputs)
    assert score.tolist() == [2.0, 0.0]
    assert uncertainty.tolist() == [1.0, 0.0]


def test_one_output_is_the_score_without_uncertainty() -> None:
    score, uncertainty = ScalarHead().score(torch.tensor([[1.5], [-0.5]]))
    assert (score.tolist(), uncertainty.tolist()) == ([1.5, -0.5], [0.0, 0.0])


def test_no_rows_have_no_scores() -> None:
    score, uncertainty = LAYOUT.score(torch.zeros(0, LAYOUT.outputs))
    assert (len(score), len(uncertainty)) == (0, 0)


def test_the_combination_gives_the_score() -> None:
    noise = torch.Generator().manual_seed(0)
    weight, hidden = torch.randn(LAYOUT.outputs, 8, generator=noise), torch.randn(5, 8, generator=noise)
    torch.testing.assert_close((hidden @ LAYOUT.combined(weight).T)[:, 0], LAYOUT.score(hidden @ weight.T)[0])


def test_a_new_ensemble_starts_apart_and_repeatably_and_a_new_single_head_at_zero() -> None:
    first = new_weight(ScalarHead(3), 64, seed=1, dtype=torch.float32)
    assert first.shape == (3, 64)
    assert torch.equal(first, new_weight(ScalarHead(3), 64, seed=1, dtype=torch.float32))
    assert not torch.equal(first, new_weight(ScalarHead(3), 64, seed=2, dtype=torch.float32))
    assert all(float((first[i] - first[k]).norm()) > 0.05 for i in range(3) for k in range(i))
    assert float(first.norm(dim=1).mean()) == pytest.approx(0.1, abs=0.02)
    assert not new_weight(ScalarHead(1, {"a": 1.0, "b": 1.0}), 64, 0, torch.float32).any()


def test_a_head_comes_back_as_it_was_exported(omni_encoder: Encoder, omni: Path, tmp_path: Path) -> None:
    tensors = exported(omni_encoder, omni, tmp_path / "model", LAYOUT)
    assert read_scalar_head(tmp_path / "model") == LAYOUT
    assert list(read_scalar_head(tmp_path / "model").aspects) == ["helpful", "honest", "short"]
    weight = load_file(tmp_path / "model" / SCALAR_HEAD_FILE)["weight"]
    assert torch.equal(weight, tensors["head.weight"])
    again = load_scalar(omni_encoder.adapter, tmp_path / "model", torch.float32, new_head=False)
    assert torch.equal(again.head.weight, weight)


def test_an_export_of_before_there_were_layouts_loads(omni_encoder: Encoder, omni: Path, tmp_path: Path) -> None:
    exported(omni_encoder, omni, tmp_path / "model", ScalarHead())
    (tmp_path / "model" / LAYOUT_FILE).unlink()
    assert read_scalar_head(tmp_path / "model") == ScalarHead()
    model = load_scalar(omni_encoder.adapter, tmp_path / "model", torch.float32, new_head=False)
    assert model.head.weight.shape[0] == 1


def test_what_is_trained_from_an_ensemble_is_none(omni_encoder: Encoder, omni: Path, tmp_path: Path) -> None:
    exported(omni_encoder, omni, tmp_path / "ensemble", LAYOUT)
    critic = load_critic(omni_encoder.adapter, tmp_path / "ensemble", torch.float32)
    tensors = {name: p.detach() for name, p in critic.named_parameters()}
    export_model(omni_encoder.adapter, tmp_path / "ensemble", tmp_path / "critic", tensors, scalar=True)
    assert read_scalar_head(tmp_path / "critic") == ScalarHead()
    vocabulary = {"head.weight": torch.zeros(1, 1)}
    export_model(omni_encoder.adapter, tmp_path / "ensemble", tmp_path / "policy", vocabulary, scalar=False)
    assert not {LAYOUT_FILE, SCALAR_HEAD_FILE} & {f.name for f in (tmp_path / "policy").iterdir()}


@torch.no_grad()
@pytest.mark.parametrize("layout", [ScalarHead(), LAYOUT], ids=["single", "ensemble of aspects"])
def test_a_critic_starts_from_the_score(layout: ScalarHead, omni_encoder: Encoder, omni: Path, tmp_path: Path) -> None:
    exported(omni_encoder, omni, tmp_path / "model", layout)
    rows, features = mixed_rows(omni_encoder)
    batch = collate(rows, [], features, 0)
    reward = load_scalar(omni_encoder.adapter, tmp_path / "model", torch.float32, new_head=False)
    want = layout.score(reward(batch.last_positions, **batch.inputs))[0]
    critic = load_critic(omni_encoder.adapter, tmp_path / "model", torch.float32)
    got = critic(batch.last_positions, **batch.inputs)
    assert got.shape == (len(rows), 1)
    assert float(want.abs().min()) > 0.0
    torch.testing.assert_close(got[:, 0], want, atol=1e-5, rtol=1e-5)


def test_a_critic_of_a_policy_starts_at_zero(omni_encoder: Encoder, omni: Path) -> None:
    weight = load_critic(omni_encoder.adapter, omni, torch.float32).head.weight
    assert weight.shape[0] == 1
    assert not weight.any()


@pytest.mark.parametrize(
    ("text", "came"),
    [
        ("{", "JSONDecodeError"),
        ('{"aspects": {}}', "KeyError: 'ensemble'"),
        ('{"ensemble": 0, "aspects": {}}', "ensemble=0"),
        ('{"ensemble": true, "aspects": {}}', "ensemble=True"),
        ('{"ensemble": 1, "aspects": ["a"]}', "AttributeError"),
        ('{"ensemble": 1, "aspects": {"a": "much"}}', "could not convert"),
    ],
)
def test_a_layout_that_says_nothing_is_refused(text: str, came: str, tmp_path: Path) -> None:
    (tmp_path / LAYOUT_FILE).write_text(text)
    with pytest.raises(ModelError, match=f"{LAYOUT_FILE}: expected .*ensemble.* got .*{came}"):
        read_scalar_head(tmp_path)


def test_a_head_of_another_shape_than_its_layout_is_refused(omni_encoder: Encoder, omni: Path, tmp_path: Path) -> None:
    exported(omni_encoder, omni, tmp_path / "model", ScalarHead())
    write_scalar_head(tmp_path / "model", ScalarHead(4))
    assert json.loads((tmp_path / "model" / LAYOUT_FILE).read_text()) == {"ensemble": 4, "aspects": {}}
    with pytest.raises(ModelError, match=r"weight expects shape \[4, \d+\].*got \[1, \d+\]"):
        load_scalar(omni_encoder.adapter, tmp_path / "model", torch.float32, new_head=False)
    save_file({"weight": torch.zeros(4, 7)}, tmp_path / "model" / SCALAR_HEAD_FILE)
    with pytest.raises(ModelError, match=r"got \[4, 7\]"):
        load_scalar(omni_encoder.adapter, tmp_path / "model", torch.float32, new_head=False)
