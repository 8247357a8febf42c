"""The Python API up to where Ray starts; docs/python.ipynb runs the rest."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import mmrlhf_ray
from mmrlhf_ray.api import JobResult, _ready
from mmrlhf_ray.config import EvaluateConfig, JobKind, PPOConfig, SFTConfig
from mmrlhf_ray.errors import ConfigError, UserError

ROOT = Path(__file__).parents[2]
JOBS = sorted(path for path in (ROOT / "jobs").glob("*.yaml") if not yaml.safe_load(path.read_text()).get("base"))
KEYS = {
    "job": "sft", "name": "a-run", "model": {"path": "m"}, "data": {"path": "rows.jsonl"}, "epochs": 1,
    "learner": {"optimizer": {"lr": 1e-5}},
}  # fmt: skip


def test_importing_the_package_is_cheap():
    heavy = "{'ray', 'torch', 'pydantic'} & set(sys.modules)"
    code = f"import sys, mmrlhf_ray; print(mmrlhf_ray.__version__, len(sys.modules), {heavy})"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert said[0] == mmrlhf_ray.__version__
    assert said[2] == "set()"


def test_every_name_is_there_and_no_other():
    assert [name for name in mmrlhf_ray.__all__ if not callable(getattr(mmrlhf_ray, name))] == []
    assert set(mmrlhf_ray.__all__) <= set(dir(mmrlhf_ray))
    with pytest.raises(AttributeError, match="no attribute 'sftt'"):
        mmrlhf_ray.sftt  # noqa: B018


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_a_file_and_its_keys_are_the_same_configuration(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    cfg = mmrlhf_ray.load_config(path)
    assert type(cfg) is JobKind(yaml.safe_load(path.read_text())["job"]).config
    assert mmrlhf_ray.load_config(str(path)) == cfg == mmrlhf_ray.load_config(yaml.safe_load(path.read_text()))


def test_overrides_and_paths_are_those_of_the_command(tmp_path):
    cfg = mmrlhf_ray.load_config(KEYS, ["epochs=3", "learner.optimizer.lr=2e-5"], root=tmp_path)
    assert isinstance(cfg, SFTConfig)
    assert (cfg.epochs, cfg.learner.optimizer.lr, cfg.model.path) == (3, 2e-5, str(tmp_path / "m"))
    assert KEYS["learner"] == {"optimizer": {"lr": 1e-5}}


def test_what_is_wrong_is_said_as_by_the_command():
    with pytest.raises(
        ConfigError, match=r"1 problem in the configuration from a mapping:\n  epoch \(given\): no such key"
    ):
        mmrlhf_ray.load_config(KEYS | {"epoch": 2})
    with pytest.raises(ConfigError, match="a mapping: expected a top-level `job:` key"):
        mmrlhf_ray.load_config({"name": "a-run"})
    with pytest.raises(ConfigError, match="this is a sft job, not ppo; run it with `mmrlhf sft`"):
        mmrlhf_ray.ppo(KEYS)
    with pytest.raises(TypeError, match="expected a EvaluateConfig, got a SFTConfig"):
        mmrlhf_ray.evaluate(mmrlhf_ray.load_config(KEYS))
    with pytest.raises(UserError, match="no such model directory"):
        mmrlhf_ray.sft(KEYS | {"model": {"path": "gone"}})


def test_a_configuration_takes_overrides_too():
    cfg = mmrlhf_ray.load_config(KEYS)
    changed = _ready(SFTConfig, cfg, ["epochs=4"])
    assert (changed.epochs, changed.model.dtype) == (4, "float32")
    assert {EvaluateConfig, PPOConfig} <= {JobKind(kind).config for kind in JobKind}


def test_a_result_reads_its_metrics(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(
        '{"step": 0, "time": 1.0, "loss": 2.0}\n{"step": 1, "time": 2.0, "loss": null}\n'
    )
    assert [row["loss"] for row in JobResult(tmp_path, None, {}, None).metrics] == [2.0, None]
