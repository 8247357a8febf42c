"""The lines at the end of a job."""

import json
from pathlib import Path
from typing import Any

import pytest

from mmrlhf_ray.cli.ending import ending
from mmrlhf_ray.config import EvaluateConfig, PPOConfig, SFTConfig

DATA = {"path": "d"}


def sft() -> SFTConfig:
    return SFTConfig.model_validate({"name": "a", "model": {"path": "m"}, "data": DATA, "steps": 1})


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "a").mkdir(parents=True)
    return tmp_path / "runs" / "a"


def log(run: Path, rows: list[dict[str, Any]]) -> None:
    lines = (json.dumps({"step": step, "time": 0.0} | row) for step, row in enumerate(rows))
    (run / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))


def test_model_report_changes_and_the_next_command(run: Path) -> None:
    (run / "model").mkdir()
    (run / "report.html").touch()
    log(run, [{"loss": 3.0 - step / 10, "eval_loss": None} for step in range(20)])
    assert list(ending("sft", sft())) == [
        "model    runs/a/model",
        "report   runs/a/report.html; mmrlhf runs show runs/a",
        "changed  loss 2.95 → 1.15",
        "next     mmrlhf config grpo > my-grpo.yaml      # there policy.path: runs/a/model",
    ]


def test_several_figures_and_no_report(run: Path) -> None:
    (run / "model").mkdir()
    log(run, [{"score": 0.1, "kl": 0.0}, {"score": 0.9, "kl": 1.5}])
    cfg = PPOConfig.model_validate(
        {"name": "a", "policy": {"path": "m"}, "data": DATA,
         "rewards": [{"name": "r", "kind": "function", "function": "length"}]}
    )  # fmt: skip
    said = list(ending("ppo", cfg))
    assert said[1:3] == ["report   mmrlhf runs show runs/a", "changed  score 0.1 → 0.9, kl 0 → 1.5"]


def test_an_evaluation_has_neither_model_nor_curves(run: Path) -> None:
    (run / "evaluation.json").touch()
    cfg = EvaluateConfig.model_validate({"name": "a", "policy": {"path": "m"}, "data": DATA})
    assert list(ending("evaluate", cfg)) == ["report   runs/a/evaluation.json; mmrlhf runs show runs/a"]


def test_a_run_elsewhere_is_named_in_full(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = sft()
    (run / "model").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert next(ending("sft", cfg)) == f"model    {run}/model"
