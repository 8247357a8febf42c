"""A run with every tracker that is installed and a profile, on the real vLLM and DeepSpeed."""

import gzip
import json
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mmrlhf_ray.runtime.metrics import read_metrics
from tests.command import Here

STEPS = 4
OTHERS = [name for name in ("wandb", "mlflow", "swanlab") if find_spec(name) is not None]

pytestmark = pytest.mark.e2e


def job(values: dict[str, Any], directory: Path) -> dict[str, Any]:
    """Half the usual steps, of GRPO with one learner."""
    del values["critic"], values["placement"]["critic"]
    values["placement"]["policy"]["replicas"] = 1
    return values | {
        "steps": STEPS, "output_dir": str(directory), "stream": {"max_staleness": 1},
        "algorithm": {
            "advantage_estimator": "grpo", "mismatch": {"correction": "tis"}, "kl_in": "loss", "kl_estimator": "k3",
            "prompts_per_step": 6, "n_samples_per_prompt": 2, "mini_batch_size": 12,
        },
        "track": ["tensorboard", *OTHERS], "track_samples": 4, "track_samples_every_steps": 2,
        "profile": {"steps": [1, 2], "tool": "torch"},
    }  # fmt: skip


def events(file: Path) -> list[dict[str, Any]]:
    text = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    found: list[dict[str, Any]] = json.loads(text)["traceEvents"]
    return found


def test_curves_samples_and_traces_are_there(
    here: Here,
    ppo_job: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY", "MLFLOW_TRACKING_URI", "SWANLAB_MODE", "SWANLAB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(job(yaml.safe_load(ppo_job.read_text()), tmp_path)))
    finished = here("ppo", str(file), cwd=tmp_path)
    assert finished.returncode == 0, finished.err
    run = tmp_path / "run"
    rows = read_metrics(run)
    assert [message for message in caplog.messages if "is not used any more" in message] == []

    shown = EventAccumulator(str(run / "tensorboard")).Reload()
    curve = [(event.step, event.value) for event in shown.Scalars("reward/score")]
    assert curve == [(row["step"], pytest.approx(row["score"])) for row in rows]
    assert not [tag for tag in shown.Tags()["scalars"] if tag.startswith("other/")]
    texts = [tag for tag in shown.Tags()["tensors"] if tag.startswith("samples/")]
    assert texts == [f"samples/{number}/text_summary" for number in range(4)]
    assert {event.step for event in shown.Tensors(texts[0])} == {0, 2}
    for name in OTHERS:
        assert list((run / {"wandb": "wandb", "mlflow": "mlflow.db", "swanlab": "swanlog"}[name]).parent.iterdir())

    for step in (1, 2):
        operators = Counter(event.get("name") for event in events(run / f"profile/step-{step:06d}/policy-0.json.gz"))
        assert operators["aten::mm"] + operators["aten::addmm"] > 10, "the learner's own work"
    assert not (run / "profile/step-000003").exists()
    timeline = events(run / "profile/timeline.json")
    names = {event["pid"]: event["args"]["name"] for event in timeline if event["name"] == "process_name"}
    calls = Counter((names[event["pid"]], event["name"]) for event in timeline if event["ph"] == "X")
    assert calls["driver", "step 1"] == calls["driver", "step 2"] == 1
    assert calls["policy-0", "update"] == 2
    assert calls["generator-0", "generate"] >= 6
    assert {"encoder-0", "scorer-0", "reference-0"} <= set(names.values())
    steps = [event for event in timeline if event["name"] in ("step 1", "step 2")]
    updates = [event for event in timeline if event["name"] == "update"]
    for step_, update in zip(steps, updates, strict=True):
        assert step_["ts"] <= update["ts"] <= update["ts"] + update["dur"] <= step_["ts"] + step_["dur"]
