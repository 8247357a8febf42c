"""A PPO job through `mmrlhf submit` on a cluster with token authentication: what it shows and what it leaves."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from mmrlhf_ray.config import PPOConfig, load_config
from mmrlhf_ray.data.records.readers import read_records
from mmrlhf_ray.runtime.metrics import read_metrics
from mmrlhf_ray.schema import PROMPT, RESPONSE
from tests.e2e.conftest import STEPS, Submitted
from tests.ray.support import encoded_prompts

TOLERANCE = 1e-4
ACTORS = {
    "encoder-0": "PromptEncoder",
    "generator-0": "Generator",
    "scorer-0": "Scorer",
    "reference-0": "Reference",
    "policy-0": "Learner",
    "policy-1": "Learner",
    "critic-0": "Learner",
}

pytestmark = pytest.mark.e2e


def test_the_job_succeeds_and_says_where_its_run_is(submitted: Submitted) -> None:
    assert submitted.finished.returncode == 0, submitted.finished.out + submitted.finished.err
    assert str(submitted.run_dir) in submitted.finished.out
    assert "SUCCEEDED" in submitted.finished.err


def test_actors_are_named_by_their_role_in_the_state_api(submitted: Submitted) -> None:
    assert submitted.actors.items() >= ACTORS.items()


def test_metrics_are_on_the_metrics_endpoint(submitted: Submitted) -> None:
    names = {f"mmrlhf_ppo_{name}" for name in ("score", "kl", "response_tokens", "policy_loss", "seconds_generate")}
    assert submitted.gauges.keys() >= names
    logged = [row["response_tokens"] for row in read_metrics(submitted.run_dir)]
    assert submitted.gauges["mmrlhf_ppo_response_tokens"] in logged


def test_step_0_starts_from_the_reference_itself(submitted: Submitted) -> None:
    first = read_metrics(submitted.run_dir)[0]
    assert first["step"] == 0
    assert abs(first["kl"]) <= TOLERANCE
    assert abs(first["ratio"] - 1) <= TOLERANCE
    assert abs(first["ratio_max"] - 1) <= TOLERANCE


def test_sampler_and_learner_agree_at_every_step_while_the_policy_moves(submitted: Submitted) -> None:
    rows = read_metrics(submitted.run_dir)
    assert [row["step"] for row in rows] == list(range(STEPS))
    assert max(row["mismatch_max"] for row in rows) <= TOLERANCE
    assert abs(rows[-1]["kl"]) > 100 * TOLERANCE  # it is another policy by then
    assert all(row["grad_norm"] > 0 and row["critic_grad_norm"] > 0 for row in rows)
    assert len({row["kl_coef"] for row in rows}) > 1  # the adaptive controller is at work
    assert all(0 <= row["padding_share"] <= 0.05 for row in rows)


def test_media_travel_once_however_many_responses_there_are(
    submitted: Submitted, model_dir: Path, tmp_path: Path
) -> None:
    cfg = load_config(submitted.run_dir / "config.yaml", [], PPOConfig)
    prompts, media, features = encoded_prompts(model_dir, cfg.data, tmp_path)
    size = {row["media_id"]: len(row["data"]) for row in media.to_pylist()}
    for row in features.to_pylist():
        size[row["media_id"]] += len(row["data"])
    shown = dict(zip(*(prompts.column(name).to_pylist() for name in ("prompt_id", "media_ids")), strict=True))
    for row in read_metrics(submitted.run_dir):
        rollouts = pq.read_table(submitted.run_dir / "rollouts" / f"step-{row['step']:06d}.parquet")
        unique = {media_id for prompt in rollouts.column("prompt_id").to_pylist() for media_id in shown[prompt]}
        assert row["media_bytes"] == sum(size[media_id] for media_id in unique)
        assert row["processor_calls"] == 0  # every prompt was encoded when it was checked


def test_rollouts_configuration_and_events_are_kept(submitted: Submitted) -> None:
    files = sorted((submitted.run_dir / "rollouts").iterdir())
    assert [f.name for f in files] == [f"step-{step:06d}.parquet" for step in range(STEPS)]
    last = pq.read_table(files[-1])
    assert last.schema.equals(RESPONSE)
    assert len(last) == 26
    cfg = load_config(submitted.run_dir / "config.yaml", [], PPOConfig)
    assert cfg.steps == STEPS
    assert cfg.data.on_bad_row == "quarantine"
    assert any((submitted.run_dir / "tensorboard").iterdir())


def test_bad_rows_were_set_aside_with_their_reasons(submitted: Submitted, tmp_path: Path) -> None:
    lines = (submitted.run_dir / "quarantine.jsonl").read_text().splitlines()
    rows = {row["record_id"]: row for row in map(json.loads, lines)}
    assert rows.keys() == {"half-a-picture", "long"}
    assert "truncated" in rows["half-a-picture"]["reason"]
    assert "more than data.max_prompt_tokens=64" in rows["long"]["reason"]
    cfg = load_config(submitted.run_dir / "config.yaml", [], PPOConfig)
    assert read_records(cfg.data, PROMPT, tmp_path).bad_rows == 1  # the other one only the processor can tell
