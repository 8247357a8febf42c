"""`mmrlhf demo --fast`: every stage of the main job, on the real vLLM and DeepSpeed."""

import base64
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from mmrlhf_ray.config import PPOConfig, load_config
from mmrlhf_ray.runtime.metrics import read_metrics
from mmrlhf_ray.schema import ANNOTATION, RESPONSE
from tests.e2e.support import mmrlhf

STAGES = (
    "data and base model",
    "SFT",
    "responses for annotators",
    "annotation",
    "reward model",
    "PPO",
    "evaluation",
)

pytestmark = pytest.mark.e2e


def test_every_stage_runs_and_leaves_its_results(tmp_path: Path) -> None:
    demo = tmp_path / "demo"
    finished = mmrlhf("demo", "--fast", "--output", str(demo), cwd=tmp_path, timeout_s=1500)
    assert finished.returncode == 0, finished.err[-4000:]
    assert re.findall(r"── (.+): \d", finished.err) == list(STAGES)
    assert "Traceback" not in finished.err
    assert finished.err.count("Ray dashboard: ") == 1  # one Ray for all stages

    for shown in ("SFT", "PPO", "media swapped", "accuracy", "grounded", "gold", "proxy", "KL", "length", " wins, "):
        assert shown in finished.out, finished.out
    assert str(demo / "report.html") in finished.out.replace("\n", "")
    report = (demo / "report.html").read_text()
    pictures = [base64.b64decode(code) for code in re.findall(r"data:image/png;base64,([\w+/=]+)", report)]
    assert {b"acTL" in picture for picture in pictures} == {True, False}  # clips move, pictures do not
    assert "data:audio/wav" in report
    assert "<svg" in report
    assert not re.search(r"""(src|href)=["']https?://""", report)  # no network is needed to view it

    for stage in ("sft", "reward-model", "ppo"):
        assert (demo / stage / "config.yaml").is_file()
        assert (demo / stage / "model" / "model.safetensors").is_file()
        assert any((demo / stage / "tensorboard").iterdir())
        assert read_metrics(demo / stage)
    assert "eval_pair_accuracy" in read_metrics(demo / "reward-model")[-1]
    assert load_config(demo / "ppo" / "config.yaml", [], PPOConfig).transport == "gloo"
    annotations = pq.read_table(demo / "data" / "annotations.parquet")
    assert annotations.schema.equals(ANNOTATION)
    assert len(set(annotations.column("annotator_id").to_pylist())) > 1
    answers = pq.read_table(demo / "evaluate" / "responses.parquet", schema=RESPONSE)
    asked = set(zip(answers.column("policy").to_pylist(), answers.column("media").to_pylist(), strict=True))
    assert asked == {(policy, media) for policy in ("policy", "baseline") for media in ("own", "swapped")}
