from pathlib import Path

import pytest

from mmrlhf_ray.config import (
    DataConfig,
    FunctionReward,
    IterateConfig,
    ModelConfig,
    ProbeRewardConfig,
    SFTConfig,
    load_config,
    save_config,
)

ADDRESSES = ("s3://bucket/c.tar", "hf:name", "/data/b.parquet")

PROBE = """
name: tiny
policy: {path: /shared/policy}
data: {sources: [{path: a.jsonl}, {path: "s3://bucket/b.tar"}], media_root: media, text: {clean: ["hooks.py:tidy"]}}
rewards:
  - {name: far, kind: model, model: {path: /shared/reward}}
  - {name: near, kind: model, model: {path: runs/reward}}
  - {name: own, kind: function, function: "my/file.py:f", arguments: {path: "stays"}}
  - {name: ours, kind: function, function: accuracy}
"""

LOOP = """
name: loop
policy: {path: sft}
prompts: {path: prompts}
feedback: {serve: {tls_cert: a.pem, tls_key: b.pem}}
reward_model: {job: {epochs: 1}}
train:
  ppo:
    rewards: [{name: near, kind: model, model: {path: runs/reward}}]
    critic: {model: {path: critic}}
evaluate: {data: {path: heldout}}
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def job(here: Path, text: str) -> Path:
    file = here / "job.yaml"
    file.write_text(text)
    return file


def test_a_configuration_has_no_relative_path(here: Path) -> None:
    cfg = load_config(job(here, PROBE), [], ProbeRewardConfig)
    assert [s.path for s in cfg.data.sources] == [f"{here}/a.jsonl", "s3://bucket/b.tar"]
    assert (cfg.data.media_root, cfg.data.text.clean) == (f"{here}/media", (f"{here}/hooks.py:tidy",))
    assert [r.model.path for r in cfg.model_rewards] == ["/shared/reward", f"{here}/runs/reward"]
    own, ours = cfg.function_rewards
    assert (own.function, own.arguments, ours.function) == (f"{here}/my/file.py:f", {"path": "stays"}, "accuracy")
    assert cfg.output_dir == f"{here}/runs"


def test_paths_are_taken_from_the_root_but_code_from_here(here: Path) -> None:
    cfg = load_config(job(here, PROBE), ["data.spill_dir=spill"], ProbeRewardConfig, Path("/mnt/team"))
    assert [s.path for s in cfg.data.sources] == ["/mnt/team/a.jsonl", "s3://bucket/b.tar"]
    assert (cfg.data.media_root, cfg.data.spill_dir) == ("/mnt/team/media", "/mnt/team/spill")
    assert [r.model.path for r in cfg.model_rewards] == ["/shared/reward", "/mnt/team/runs/reward"]
    assert (cfg.data.text.clean, cfg.output_dir) == ((f"{here}/hooks.py:tidy",), "/mnt/team/runs")
    assert cfg.function_rewards[0].function == f"{here}/my/file.py:f"


def test_the_jobs_of_a_loop_too(here: Path) -> None:
    cfg = load_config(job(here, LOOP), [], IterateConfig, Path("/mnt"))
    assert cfg.train.ppo is not None
    assert cfg.train.ppo["rewards"][0]["model"] == {"path": "/mnt/runs/reward"}
    assert cfg.train.ppo["critic"] == {"model": {"path": "/mnt/critic"}}
    assert cfg.feedback.serve == {"tls_cert": "/mnt/a.pem", "tls_key": "/mnt/b.pem"}
    assert set(cfg.train.ppo) == {"rewards", "critic"}


def test_a_saved_configuration_means_the_same_elsewhere(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = load_config(job(here, LOOP), [], IterateConfig)
    save_config(cfg, here / "saved.yaml")
    (here / "below").mkdir()
    monkeypatch.chdir(here / "below")
    assert load_config(here / "saved.yaml", [], IterateConfig) == cfg


@pytest.mark.parametrize("path", ADDRESSES)
def test_addresses_names_and_absolute_paths_stay(path: str) -> None:
    assert DataConfig(path=path).path == path


def test_home_and_dots(here: Path) -> None:
    assert ModelConfig(path="~/models/a").path == str(Path.home() / "models/a")
    assert ModelConfig(path="../a/./b").path == f"{here.parent}/a/b"
    assert ModelConfig(path=".").path == str(here)


def test_functions_that_are_no_files_stay() -> None:
    assert FunctionReward(name="a", kind="function", function="f1").function == "f1"
    text = {"redact": ["builtin:pii", "hooks.py:hide"]}
    data = DataConfig(path="a", text=text)  # type: ignore[arg-type]
    assert data.text.redact == ("builtin:pii", f"{Path.cwd()}/hooks.py:hide")


def test_without_a_file(here: Path) -> None:
    cfg = load_config(None, ["name=a", "model.path=m", "data.path=d", "steps=1"], SFTConfig)
    assert (cfg.model.path, cfg.data.path, cfg.output_dir) == (f"{here}/m", f"{here}/d", f"{here}/runs")
