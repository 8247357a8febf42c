"""What --resume takes up, applies, refuses by name and leaves alone."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml

from mmrlhf_ray.config import PPOConfig, PreferenceConfig, RewardModelConfig, RunConfig, SFTConfig
from mmrlhf_ray.data.records.readers import Records
from mmrlhf_ray.errors import ConfigError, RunError
from mmrlhf_ray.pipelines.ppo.state import DriverState
from mmrlhf_ray.pipelines.resume import Start, begin, check_length, differences, finish, run_record
from mmrlhf_ray.rewards.mixture import MixtureState
from mmrlhf_ray.rollout.ledger import Consumed
from mmrlhf_ray.schema import MEDIA
from mmrlhf_ray.training.checkpoint import Manifest, publish, stage

COST = {"bound": 0.5, "multiplier_lr": 0.1}
REWARDS = [
    {"name": "exact", "kind": "function", "function": "exact_match"},
    {"name": "harm", "kind": "function", "function": "length", "cost": COST},
]


def rows(*ids: str) -> Records:
    return Records(pa.table({"prompt_id": list(ids)}), MEDIA.empty_table(), 0, "f", tuple(range(len(ids))))


ROWS = rows("a", "b")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "base"
    path.mkdir()
    (path / "config.json").write_text("{}")
    (path / "model.safetensors").write_bytes(b"weights")
    return path


def ppo(tmp_path: Path, **changes: Any) -> PPOConfig:
    values: dict[str, Any] = {
        "name": "run",
        "output_dir": str(tmp_path),
        "steps": 8,
        "policy": {"path": str(tmp_path / "base")},
        "rewards": REWARDS,
        "data": {"path": str(tmp_path / "rows.jsonl")},
        "algorithm": {"kl_target": 1.0},
    }
    return PPOConfig.model_validate(changed(values, changes))


def sft(tmp_path: Path, kind: type[RunConfig] = SFTConfig, **changes: Any) -> RunConfig:
    values: dict[str, Any] = {
        "name": "run",
        "output_dir": str(tmp_path),
        "steps": 8,
        "model": {"path": str(tmp_path / "base")},
        "data": {"path": str(tmp_path / "rows.jsonl")},
    }
    return kind.model_validate(changed(values, changes))


def changed(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`values` with dotted keys replaced; components of a list go by number."""
    values = json.loads(json.dumps(values))
    for key, value in changes.items():
        *path, last = key.split(".")
        at: Any = values
        for part in path:
            at = at[int(part)] if isinstance(at, list) else at.setdefault(part, {})
        at[last] = value
    return values


def start(cfg: RunConfig, resume: bool = True, read: Records | int = ROWS) -> Start:
    run_dir = Path(cfg.output_dir) / cfg.name
    run_dir.mkdir(exist_ok=True)
    return begin(cfg, run_dir, run_record(cfg, {"data": read}), resume)


def checkpoint(cfg: RunConfig, step: int = 4, *, read: Records | int = ROWS, finished: bool = False) -> Path:
    """One that the run would have written, after its start."""
    began = start(cfg, resume=False, read=read)
    run_dir = Path(cfg.output_dir) / cfg.name
    path = stage(run_dir, step)
    (path / "weights").write_bytes(b"weights")
    driver = DriverState.start(cfg).to_dict() if isinstance(cfg, PPOConfig) else {}
    manifest = Manifest(
        step=step,
        policy_version=step,
        seed=cfg.seed,
        ranks={},
        run=began.record.to_dict(),
        finished=finished,
        driver=driver,
    )
    return publish(path, manifest, 2)


def export(cfg: RunConfig) -> Path:
    path = Path(cfg.output_dir) / cfg.name / "model"
    path.mkdir()
    (path / "config.json").write_text("trained")
    return path


def test_the_same_run_continues(tmp_path: Path, model: Path) -> None:
    path = checkpoint(ppo(tmp_path))
    found = start(ppo(tmp_path))
    assert (found.step, found.checkpoint, found.resume_step, found.changed) == (4, path, 4, {})
    assert not found.finished


def test_a_function_whose_file_has_changed_is_said(
    tmp_path: Path, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "own.py"
    file.write_text("def f(prompts, completions):\n    return [0.0] * len(prompts)\n")
    cfg = ppo(tmp_path, **{"rewards.0.function": f"{file}:f"})
    checkpoint(cfg)
    assert start(cfg).changed == {}
    file.write_text("def f(prompts, completions):\n    return [1.0] * len(prompts)\n")
    with caplog.at_level(logging.WARNING):
        assert start(cfg).step == 4
    (line,) = [line for line in caplog.messages if "rewards.exact.function, its file, was " in line]
    assert line.endswith(": applied from here on")


PPO_REFUSED: dict[str, Any] = {
    "seed": 7,
    "data.path": "/elsewhere/rows.jsonl",
    "data.max_prompt_tokens": 8,
    "rewards.0.function": "recall",
    "rewards.0.weight": 2.0,
    "rewards.1.cost": None,
    "reference": {"path": "base"},
    "policy.dtype": "bfloat16",
    "learner.engine.zero_stage": 3,
    "learner.lora": {"rank": 2},
    "learner.parts.vision_tower.train": False,
    "critic.engine.zero_stage": 0,
    "sampling.temperature": 0.5,
    "algorithm.prompts_per_step": 128,
    "algorithm.score_normalisation": "task",
}


@pytest.mark.parametrize("key", PPO_REFUSED)
def test_what_must_not_change_is_refused_by_name_and_nothing_is_touched(tmp_path: Path, model: Path, key: str) -> None:
    cfg = ppo(tmp_path)
    checkpoint(cfg)
    export(cfg)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    value = {"path": str(model)} if key == "reference" else PPO_REFUSED[key]
    with pytest.raises(RunError, match="was started with other settings") as refused:
        start(ppo(tmp_path, **{key: value}))
    named = key.replace("rewards.0", "rewards.exact").replace("rewards.1", "rewards.harm")
    (line,) = [line for line in str(refused.value).splitlines() if line.startswith(f"  {named}")]
    assert "was " in line
    assert ", is now " in line
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize(
    ("key", "value"),
    [("seed", 7), ("batch_size", 4), ("data.path", "/x"), ("learner.engine.zero_stage", 0), ("model.dtype", "bfloat16"),
     ("feedback_coef", 0.5), ("learner.lora", {"rank": 2})],
)  # fmt: skip
def test_so_it_is_in_supervised_training(tmp_path: Path, model: Path, key: str, value: Any) -> None:
    checkpoint(sft(tmp_path))
    with pytest.raises(RunError, match=rf"\n  {key}(\.rank)? was .*, is now "):
        start(sft(tmp_path, **{key: value}))


def test_every_difference_is_named_at_once(tmp_path: Path, model: Path) -> None:
    checkpoint(sft(tmp_path))
    with pytest.raises(RunError) as refused:
        start(sft(tmp_path, seed=3, batch_size=32, **{"learner.optimizer.lr": 0.1}))
    assert "\n  seed was 0, is now 3\n  batch_size was 64, is now 32\n" in str(refused.value)
    assert "optimizer.lr" not in str(refused.value)


APPLIED: dict[str, Any] = {
    "steps": 16,
    "learner.optimizer.lr": 1e-3,
    "learner.optimizer.betas": (0.5, 0.6),
    "critic.optimizer.schedule": "linear",
    "algorithm.kl_coef": 0.5,
    "algorithm.kl_horizon": 8.0,
    "rewards.1.cost.bound": 0.25,
    "checkpoint.every_steps": 2,
    "placement.generator.replicas": 2,
    "placement.policy.replicas": 1,
    "placement.critic.replicas": 1,
    "rollouts_logged": 3,
    "media_kept_mb": 3,
}


@pytest.mark.parametrize("key", APPLIED)
def test_what_may_change_is_applied_and_said(
    tmp_path: Path, model: Path, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint(ppo(tmp_path))
    cfg = ppo(tmp_path, **{key: APPLIED[key]})
    with caplog.at_level(logging.WARNING):
        found = start(cfg)
    named = key.replace("rewards.1", "rewards.harm")
    assert list(found.changed) == [named]
    assert any(f"  {named} was " in line and line.endswith(": applied from here on") for line in caplog.messages)
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["steps"] == cfg.steps


def test_another_job_of_the_same_name_is_refused(tmp_path: Path, model: Path) -> None:
    checkpoint(sft(tmp_path))
    for kind, job in ((PreferenceConfig, "preference"), (RewardModelConfig, "reward-model")):
        with pytest.raises(RunError, match=f"written by a sft job, this is a {job} job; choose another name"):
            start(sft(tmp_path, kind))


def test_other_weights_under_the_same_path_are_refused(tmp_path: Path, model: Path) -> None:
    checkpoint(ppo(tmp_path, **{"learner.lora": {"rank": 2}}))
    (model / "model.safetensors").write_bytes(b"WEIGHTS")
    with pytest.raises(RunError, match=rf"policy: the files in {model} are not those it was started from"):
        start(ppo(tmp_path, **{"learner.lora": {"rank": 2}}))


def test_the_same_weights_elsewhere_are_the_same_model(tmp_path: Path, model: Path) -> None:
    checkpoint(sft(tmp_path))
    model.rename(tmp_path / "moved")
    (tmp_path / "moved" / "README.md").write_text("moved")
    assert start(sft(tmp_path, **{"model.path": str(tmp_path / "moved")})).step == 4


@pytest.mark.parametrize("now", [rows("a"), rows("a", "c"), rows("b", "a"), 3])
def test_other_rows_in_the_same_file_are_refused(tmp_path: Path, model: Path, now: Records | int) -> None:
    checkpoint(sft(tmp_path))
    with pytest.raises(RunError, match=r"\n  data: its rows are others: was .2 rows.*, is now"):
        start(sft(tmp_path), read=now)


def test_a_checkpoint_of_an_earlier_version_is_taken_up(
    tmp_path: Path, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    described = checkpoint(sft(tmp_path)) / "manifest.json"
    described.write_text(json.dumps(json.loads(described.read_text()) | {"run": {}}))
    assert start(sft(tmp_path)).step == 4
    assert "of an earlier version" in caplog.text
    with pytest.raises(RunError, match="seed was 0, is now 1"):
        start(sft(tmp_path, seed=1))


def test_settings_that_an_earlier_version_lacked_are_at_their_defaults(tmp_path: Path, model: Path) -> None:
    described = checkpoint(sft(tmp_path)) / "manifest.json"
    said = json.loads(described.read_text())
    del said["run"]["settings"]["data"]["over_long"], said["run"]["settings"]["batch_size"]
    described.write_text(json.dumps(said))
    assert start(sft(tmp_path)).step == 4
    with pytest.raises(RunError, match=r"data\.over_long was \"reject\", is now \"truncate_text\""):
        start(sft(tmp_path, **{"data.over_long": "truncate_text"}))


def test_a_damaged_newest_is_named_kept_and_passed_over(
    tmp_path: Path, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint(sft(tmp_path), 4)
    newest = checkpoint(sft(tmp_path), 6)
    (newest / "weights").write_bytes(b"WEIGHTS")
    assert start(sft(tmp_path)).step == 4
    assert f"{newest / 'weights'} is damaged" in caplog.text
    assert (newest.with_name("damaged-step-00000006") / "weights").read_bytes() == b"WEIGHTS"


def test_where_all_are_damaged_nothing_is_deleted(tmp_path: Path, model: Path) -> None:
    path = checkpoint(sft(tmp_path))
    (path / "manifest.json").write_text((path / "manifest.json").read_text()[:-20])
    (tmp_path / "run" / "metrics.jsonl").write_text("{}\n")
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(RunError, match=f"{path / 'manifest.json'} is damaged"):
        start(sft(tmp_path, seed=9))
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_without_a_checkpoint_a_run_starts_and_says_so(
    tmp_path: Path, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = start(sft(tmp_path))
    assert (found.step, found.checkpoint, found.finished) == (0, None, False)
    assert found.resume_step is None, "metrics of an attempt that got to no checkpoint are set aside, not dropped"
    assert "there is no checkpoint to resume from; starting at step 0" in caplog.text


def test_a_finished_run_is_finished(tmp_path: Path, model: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoint(sft(tmp_path), 8, finished=True)
    exported = export(sft(tmp_path))
    assert start(sft(tmp_path)).finished
    assert "the run is finished, there is nothing to do" in caplog.text
    assert exported.is_dir()
    longer = start(sft(tmp_path, steps=12))
    assert (longer.step, longer.finished) == (8, False)
    assert not exported.exists(), "the model of 8 steps is not the one that config.yaml now describes"


def test_a_run_whose_export_failed_is_not_finished(tmp_path: Path, model: Path) -> None:
    checkpoint(sft(tmp_path), 8, finished=True)
    found = start(sft(tmp_path))
    assert (found.step, found.finished) == (8, False)


def test_a_finished_run_without_checkpoints_is_finished_or_refused(tmp_path: Path, model: Path) -> None:
    start(sft(tmp_path), resume=False)
    export(sft(tmp_path))
    assert start(sft(tmp_path)).finished
    with pytest.raises(RunError, match=r"no checkpoint to continue from with other settings:\n  steps was 8, is now 9"):
        start(sft(tmp_path, steps=9))


def test_more_steps_than_the_run_has_are_refused(tmp_path: Path, model: Path) -> None:
    checkpoint(sft(tmp_path), 6)
    before = (tmp_path / "run" / "config.yaml").read_bytes()
    with pytest.raises(RunError, match="6 steps are done, more than the 4 that steps=4 gives; raise it"):
        start(sft(tmp_path, steps=4))
    assert (tmp_path / "run" / "config.yaml").read_bytes() == before
    by_rows = start(sft(tmp_path, steps=None, epochs=2))
    with pytest.raises(RunError, match="6 steps are done, more than the 5 that epochs=2 gives"):
        check_length(by_rows, 5, "epochs=2")


def test_model_and_configuration_belong_together(tmp_path: Path, model: Path) -> None:
    """A run that starts over and fails leaves no model that its config.yaml does not describe."""
    cfg = sft(tmp_path)
    start(cfg, resume=False)
    export(cfg)
    for _ in range(2):
        start(sft(tmp_path, seed=4), resume=False)
        assert not (tmp_path / "run" / "model").exists()
        assert (tmp_path / "run" / "model.previous" / "config.json").read_text() == "trained"
    export(cfg)
    finish(tmp_path / "run")
    assert {p.name for p in (tmp_path / "run").iterdir()} == {"model", "config.yaml"}


def test_a_run_does_not_replace_the_model_that_it_starts_from(tmp_path: Path, model: Path) -> None:
    start(sft(tmp_path), resume=False)
    own = export(sft(tmp_path))
    cfg = sft(tmp_path, **{"model.path": str(own)})
    with pytest.raises(ConfigError, match=rf"model\.path={own} is this run's own export"):
        start(cfg, resume=False)
    assert own.is_dir()


def test_differences_go_by_the_names_of_components() -> None:
    was = {"rewards": [{"name": "a", "weight": 1}, {"name": "b", "weight": 1}], "lora": None, "betas": [1, 2]}
    now = {"rewards": [{"name": "b", "weight": 2}], "lora": {"rank": 4}, "betas": [1, 2]}
    found = {key: str(change) for key, change in differences(was, now)}
    assert found == {
        "rewards.a": 'was {"name": "a", "weight": 1}, is now not given',
        "rewards.b.weight": "was 1, is now 2",
        "lora": 'was null, is now {"rank": 4}',
    }


def resumed(cfg: PPOConfig, was: PPOConfig, state: dict[str, Any]) -> DriverState:
    settings = (c.model_dump(mode="json") for c in (was, cfg))
    return DriverState.resumed(cfg, state, dict(differences(*settings)).keys())


def test_the_drivers_state_continues_under_the_settings_of_now(tmp_path: Path) -> None:
    was = ppo(tmp_path)
    began = DriverState.start(was)
    cost = began.mixture.multipliers["harm"].update(2.0)
    state = DriverState(
        Consumed(18, (16, 3)), began.kl.update(3.0, 100), MixtureState(began.mixture.moments, {"harm": cost}), {}
    )
    saved = json.loads(json.dumps(state.to_dict()))
    assert resumed(was, was, saved) == state, "nothing changed: to the bit"
    earlier = {key: value for key, value in saved.items() if key != "consumed"} | {"cursor": 16}
    assert resumed(was, was, earlier) == replace(state, consumed=Consumed(16)), "as an earlier version wrote it"

    now = resumed(ppo(tmp_path, **{"algorithm.kl_target": 9.0, "algorithm.kl_horizon": 8.0}), was, saved)
    assert (now.kl.kl_coef, now.kl.kl_target, now.kl.kl_horizon) == (state.kl.kl_coef, 9.0, 8.0)
    assert resumed(ppo(tmp_path, **{"algorithm.kl_coef": 0.5}), was, saved).kl.kl_coef == 0.5
    fixed = resumed(ppo(tmp_path, **{"algorithm.kl_coef": 0.5, "algorithm.kl_target": None}), was, saved)
    assert (fixed.kl.kl_coef, fixed.kl.kl_target) == (0.5, None)

    moved = resumed(ppo(tmp_path, **{"rewards.1.cost.bound": 1.5, "rewards.1.cost.multiplier_lr": 0.3}), was, saved)
    multiplier = moved.mixture.multipliers["harm"]
    assert (multiplier.integral, multiplier.bound, multiplier.lr) == (cost.integral, 1.5, 0.3)
    assert multiplier.excess == pytest.approx(2.0 - 1.5)
    anew = resumed(ppo(tmp_path, **{"rewards.1.cost.initial_multiplier": 7.0}), was, saved)
    assert anew.mixture.multipliers["harm"].integral == 7.0
