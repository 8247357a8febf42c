"""The card of a run's model: what was learned from what, with its figures, and nothing of the machine."""

import json
from pathlib import Path

import pyarrow as pa
import pytest

from mmrlhf_ray.config import PPOConfig, SFTConfig
from mmrlhf_ray.data.records.readers import Records
from mmrlhf_ray.errors import RunError
from mmrlhf_ray.models.card import CARD_FILE, read_card
from mmrlhf_ray.pipelines.card import evaluation_results, finish_with_card
from mmrlhf_ray.pipelines.resume import RunRecord, run_record
from mmrlhf_ray.runtime.metrics import FILE_NAME
from mmrlhf_ray.schema import MEDIA


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run with an exported model, and the model that it started from, of a hub."""
    base = tmp_path / "hub" / "models--org--base" / "snapshots" / "0123abc"
    for directory in (base, tmp_path / "my-rm" / "model", tmp_path / "run" / "model"):
        directory.mkdir(parents=True)
        (directory / "config.json").write_text('{"model_type": "x", "vision_config": {"depth": 1}}')
        (directory / "model.safetensors").write_bytes(directory.name.encode())
    (base / CARD_FILE).write_text("---\nlicense: mit\n---\n# Base\n")
    return tmp_path / "run"


def ppo(tmp_path: Path) -> RunRecord:
    rewards = [
        {"name": "rm", "kind": "model", "model": {"path": str(tmp_path / "my-rm" / "model")}},
        {"name": "told", "kind": "remote", "url": "https://user:secret@rewards.example/score"},
    ]
    values = {
        "name": "run",
        "output_dir": str(tmp_path),
        "steps": 20,
        "seed": 3,
        "policy": {"path": str(tmp_path / "hub" / "models--org--base" / "snapshots" / "0123abc")},
        "rewards": rewards,
        "data": {"sources": [{"path": "hf:org/prompts"}, {"path": str(tmp_path / "own.jsonl"), "weight": 2.0}]},
        "algorithm": {"kl_coef": 0.02},
        "env": {"MY_TOKEN": "secret"},
    }
    records = Records(pa.table({"prompt_id": ["a", "b"]}), MEDIA.empty_table(), 0, "f", (0, 1))
    return run_record(PPOConfig.model_validate(values), {"data": records})


def test_a_ppo_run(run_dir: Path, tmp_path: Path) -> None:
    rows = [{"step": step, "score": step / 10, "kl": 1.0} for step in range(20)]
    rows[-1] |= {"eval_score": 0.5, "eval_score_low": 0.4, "eval_score_high": 0.6, "eval_kl": 2.0}
    (run_dir / FILE_NAME).write_text("".join(json.dumps(row) + "\n" for row in rows))
    (run_dir / "model.previous").mkdir()
    record = ppo(tmp_path)
    finish_with_card(run_dir, record)
    assert not (run_dir / "model.previous").exists()
    card = read_card(run_dir / "model")
    assert (card.data.base_model, card.data.license, card.data.datasets) == ("org/base", "mit", ["org/prompts"])
    assert card.data.tags == ["mmrlhf_ray", "ppo", "gae"]
    assert "Trained by `mmrlhf ppo` (gae) after 20 steps, seed 3." in card.text
    assert f"| `data` | hf:org/prompts, own.jsonl: {record.rows['data']} |" in card.text
    assert f"| `rewards.rm.model` | model my-rm/model, sha256 {record.weights['rewards.rm.model'][:16]} |" in card.text
    found = {own.metric_type: own for own in card.data.eval_results}
    assert found["eval_score"].metric_value == 0.5
    assert found["eval_score"].metric_name == "eval_score (95 % interval 0.4 to 0.6)"
    assert found["score"].metric_value == pytest.approx(1.85), "the last tenth of the steps"
    assert "kl_coef: 0.02" in card.text
    assert "secret" not in card.text + card.content
    assert str(tmp_path) not in card.content


def test_an_adapter_has_a_card_of_its_own(run_dir: Path, tmp_path: Path) -> None:
    (run_dir / "adapter").mkdir()
    (run_dir / "adapter" / "adapter_config.json").write_text("{}")
    cfg = SFTConfig(name="run", steps=1, model={"path": str(tmp_path / "my-rm" / "model")}, data={"path": "d"})
    finish_with_card(run_dir, run_record(cfg, {"data": 5}))
    assert read_card(run_dir / "adapter").data.library_name == "peft"
    card = read_card(run_dir / "model")
    assert card.data.library_name == "transformers"
    assert card.data.eval_results is None, "nothing was logged"
    assert "| `data` | d: 5 rows |" in card.text


def test_an_evaluations_figures(tmp_path: Path) -> None:
    run = tmp_path / "my-evaluation"
    with pytest.raises(RunError, match="expected the run of `mmrlhf evaluate`"):
        evaluation_results(run)
    run.mkdir()
    interval = {"estimate": 0.5, "low": 0.4, "high": 0.6}
    entry = {"responses": 8, "response_tokens": 3.0, "kl": 0.1, "score": interval}
    net = {"wins": 2, "ties": 1, "losses": 1, "net": {"estimate": 0.25, "low": 0.0, "high": 0.5}}
    found = {"policy, own media": entry, "baseline, own media": entry, "policy against baseline, by score": net}
    (run / "evaluation.json").write_text(json.dumps(found))
    own, against = evaluation_results(run)
    assert (own.title, own.measured_on) == ("Evaluation: policy, own media", "my-evaluation, policy, own media")
    assert [str(row) for row in own.rows] == ["0.5 [0.4, 0.6]", "0.1", "3"]
    assert [str(row) for row in against.rows] == ["0.25 [0, 0.5]"]
