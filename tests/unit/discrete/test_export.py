"""ONNX Runtime against torch, and exports that must not be kept."""

import json

import numpy as np
import onnx
import pytest
import torch

from mmrlhf_ray.discrete import export
from mmrlhf_ray.discrete.export import TOLERANCE, compare, export_onnx, sample_observations
from mmrlhf_ray.discrete.module import DecisionNet
from mmrlhf_ray.discrete.onnx_file import input_names, open_session, session_actions, session_scores
from mmrlhf_ray.discrete.saved import inference_module
from mmrlhf_ray.errors import RunError
from tests.unit.discrete_nets import SOUND, TWO_TASKS, make, net_job, save_vit_checkpoint
from tests.unit.discrete_tiny import IMAGE, TEXT, job


def jobs(tmp_path):
    """One that has everything: all kinds of fusion, recurrence, a frozen tower, two tasks, and duelling heads."""
    frozen = {
        "kind": "image",
        "height": 8,
        "width": 8,
        "encoder": {"kind": "pretrained", "path": str(tmp_path / "vit")},
    }
    modalities = {
        "image": frozen,
        "tone": SOUND | {"encoder": {"kind": "lstm"}},
        "said": TEXT | {"encoder": {"kind": "gru"}},
    }
    yield net_job("dqn", "attention", "hybrid", tasks=TWO_TASKS, observation={"modalities": modalities})
    yield net_job("ppo", "weighted", "late", observation={"modalities": {"image": IMAGE, "said": TEXT}})


def test_onnx_and_torch_agree_for_any_number_of_rows(tmp_path):
    save_vit_checkpoint(tmp_path / "vit")
    for number, cfg in enumerate(jobs(tmp_path)):
        path = tmp_path / f"{number}.onnx"
        net = DecisionNet(make(cfg))
        parity = export_onnx(net, cfg, path)
        assert parity.largest <= TOLERANCE
        assert parity.same_decision == 1.0
        session = open_session(path)
        assert [entry.name for entry in session.get_inputs()] == input_names(cfg)
        for rows in (1, 2, 5, 33):
            drawn = sample_observations(cfg, rows, seed=rows)
            with torch.no_grad():
                expected = net({name: torch.as_tensor(array) for name, array in drawn.items()}).numpy()
            np.testing.assert_allclose(session_scores(session)(drawn), expected, atol=TOLERANCE, rtol=TOLERANCE)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    cfg = job(algorithm={"kind": "clone"}, fusion={"width": 4, "hidden": [4], "stage": "early"})
    path = tmp_path_factory.mktemp("export") / "net.onnx"
    net = DecisionNet(inference_module(cfg))
    export_onnx(net, cfg, path)
    return cfg, net, path


def test_the_file_says_what_its_actions_are(exported):
    cfg, _, path = exported
    assert session_actions(open_session(path)) == {"colour": ["red", "green", "blue"]}
    said = {prop.key: json.loads(prop.value) for prop in onnx.load(path).metadata_props if prop.key == "modalities"}
    assert said == {"modalities": list(cfg.observation.modalities)}


def test_other_weights_are_seen_as_a_difference(exported):
    cfg, net, path = exported
    assert compare(net, path, cfg).largest <= TOLERANCE
    other = DecisionNet(inference_module(cfg))
    other.load_state_dict(net.state_dict())
    with torch.no_grad():
        next(other.heads.parameters()).add_(1e-3)
    assert compare(other, path, cfg).largest > TOLERANCE


def test_an_export_that_differs_is_not_kept(exported, tmp_path, monkeypatch):
    cfg, net, _ = exported
    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    with pytest.raises(RunError, match="nothing was written"):
        export_onnx(net, cfg, tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


def test_other_files_are_refused(exported, tmp_path):
    (tmp_path / "text.onnx").write_text("not a network")
    with pytest.raises(RunError, match="is no ONNX file"):
        open_session(tmp_path / "text.onnx")
    model = onnx.load(exported[2])
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(RunError, match="got another ONNX"):
        open_session(tmp_path / "other.onnx")
