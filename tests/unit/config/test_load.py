from pathlib import Path

import pytest

from mmrlhf_ray.config import (
    EvaluateConfig,
    JobKind,
    PPOConfig,
    PreferenceConfig,
    RewardModelConfig,
    SFTConfig,
    dotted_keys,
    load_config,
    read_job_kind,
    save_config,
)
from mmrlhf_ray.errors import ConfigError

PPO = """\
job: ppo
name: x
policy: {path: a}
rewards: [{name: rm, kind: model, model: {path: b}}]
data: {path: c}
learner:
  optimizer: {lr: 1e-6, betas: [0.9, 0.99]}
"""
SFT = ["name=x", "model.path=a", "data.path=b", "steps=1"]


@pytest.fixture
def ppo_file(tmp_path: Path) -> Path:
    path = tmp_path / "ppo.yaml"
    path.write_text(PPO)
    return path


def fails(path, overrides, kind) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides, kind)
    message = str(caught.value)
    assert "pydantic" not in message
    return message


def test_file_with_overrides(ppo_file):
    cfg = load_config(
        ppo_file, ["algorithm.kl_coef=0.1", "critic={optimizer: {lr: 1}}", "critic.optimizer.eps=1e-9"], PPOConfig
    )
    assert cfg.learner.optimizer.lr == 1e-6
    assert cfg.learner.optimizer.betas == (0.9, 0.99)
    assert cfg.algorithm.kl_coef == 0.1
    assert (cfg.critic.optimizer.lr, cfg.critic.optimizer.eps) == (1.0, 1e-9)


def test_an_override_leaves_other_uses_of_the_same_yaml_anchor_alone(tmp_path):
    path = tmp_path / "ppo.yaml"
    path.write_text(PPO + "placement: {policy: &two {replicas: 2, num_cpus: 0.5}, critic: *two}\n")
    placement = load_config(path, ["placement.policy.replicas=3"], PPOConfig).placement
    assert (placement.policy.replicas, placement.critic.replicas) == (3, 2)


def test_overrides_alone():
    cfg = load_config(None, [*SFT, "learner.optimizer.lr=2e-5", "eval_data=null"], SFTConfig)
    assert cfg.learner.optimizer.lr == 2e-5


def test_an_override_wins_over_the_file(ppo_file):
    assert load_config(ppo_file, ["policy.path=/elsewhere"], PPOConfig).policy.path == "/elsewhere"


def test_saved_and_read_again(ppo_file, tmp_path):
    cfg = load_config(ppo_file, ["algorithm.kl_target=3.0", "learner.optimizer.eps=1e-12"], PPOConfig)
    saved = tmp_path / "deep" / "config.yaml"
    save_config(cfg, saved)
    assert load_config(saved, [], PPOConfig) == cfg
    assert read_job_kind(saved) is JobKind.PPO
    assert list(saved.parent.iterdir()) == [saved]


@pytest.mark.parametrize(
    ("override", "remedy"),
    [
        ("algorithm.kl_coeff=1", "algorithm.kl_coef"),
        ("kl_coef=1", "algorithm.kl_coef"),
        ("lr=1", "learner.optimizer.lr or critic.optimizer.lr"),
        ("learner.optimiser.lr=1", "learner.optimizer"),
        ("learner.engine.zero_stge=3", "learner.engine.zero_stage"),
        ("placement.qqqq.replicas=2", "keys of placement are strategy, generator, scorer"),
        ("zzqq=1", "top-level keys are name, output_dir"),
        ("minibatch_size=3", "algorithm.mini_batch_size"),
    ],
)
def test_an_unknown_key_names_itself_its_source_and_the_nearest(ppo_file, override, remedy):
    message = fails(ppo_file, [override], PPOConfig)
    assert f"(override {override})" in message
    assert "no such key" in message
    assert remedy in message


@pytest.mark.parametrize("kind", [SFTConfig, RewardModelConfig, PreferenceConfig])
@pytest.mark.parametrize("key", ["engine", "optimizer", "lora", "parts"])
def test_what_the_learner_is_told_is_found_under_learner(tmp_path, kind, key):
    path = tmp_path / "job.yaml"
    path.write_text(f"name: x\nmodel: {{path: a}}\ndata: {{path: b}}\nsteps: 1\n{key}: {{}}\n")
    assert f"{key} ({path}:5): no such key; the nearest is learner.{key}" in fails(path, [], kind)


def test_every_problem_is_in_one_message_with_its_line(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text(PPO + "steps: abc\nalgorithm:\n  kl_coeff: 1\n  gamma: 2\nrewardmodel: {}\n")
    message = fails(path, ["placement=3", "sampling.temperature=true"], PPOConfig)
    assert message.startswith(f"6 problems in the configuration from {path}")
    assert f'steps ({path}:8): must be an integer, got "abc" (text)' in message
    assert f"algorithm.kl_coeff ({path}:10): no such key" in message
    assert f"algorithm.gamma ({path}:11): must be less than or equal to 1, got 2" in message
    assert "rewardmodel" in message
    assert "the nearest is rewards" in message
    assert "placement (override placement=3): must be a section" in message
    assert "sampling.temperature (override sampling.temperature=true): must be a number, got true" in message


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("steps=1.5", "steps (override steps=1.5): must be an integer"),
        ("steps='3'", "must be an integer"),
        ("name=3", "name (override name=3): must be a string, got 3 (integer)"),
        ("name=a/b", "must match pattern"),
        ("learner.optimizer.lr=.nan", "must be greater than 0"),
        ("learner.optimizer.betas=[1,2,3]", "must have at most 2 items"),
        ("policy.dtype=float16", "must be 'float32' or 'bfloat16'"),
        ("policy.trust_remote_code=true", "policy.trust_remote_code"),
        ("data=null", "data (override data=null): must be a section"),
    ],
)
def test_wrong_values(ppo_file, override, message):
    assert message in fails(ppo_file, [override], PPOConfig)


def test_a_missing_key_is_named():
    assert "model.path: required, but not given" in fails(None, ["model.dtype=float32"], SFTConfig)


def test_contradictions_are_plain_sentences_and_show_beside_unknown_keys(ppo_file):
    message = fails(ppo_file, ["algorithm.mini_batch_size=48", "algorithm.foo_bar=1"], PPOConfig)
    assert "2 problems" in message
    assert "must be a multiple of algorithm.mini_batch_size=48" in message
    assert "give exactly one of epochs and steps" in fails(None, [*SFT, "epochs=2"], SFTConfig)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\nname: b\n", ":2: name is already given at"),
        ("data:\n  path: a\n  path: b\n", ":3: data.path is already given at"),
        ("- a\n", "expected `key: value` lines"),
        ("1: a\n", "expected a key name, got '1'"),
        ("name: [\n", "not valid YAML"),
        ("data: &d\n  path: *d\n", "refers to itself"),
    ],
)
def test_broken_files(tmp_path, text, message):
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    assert message in fails(path, [], SFTConfig)


def test_a_missing_file(tmp_path):
    assert "No such file" in fails(tmp_path / "none.yaml", [], SFTConfig)


def test_a_file_that_is_no_text(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    assert "not UTF-8 text" in fails(path, [], SFTConfig)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["steps"], "expected key=value"),
        (["=3"], "expected key=value"),
        (["a..b=3"], "expected key=value"),
        (["name=[", *SFT[1:]], "not valid YAML"),
        ([*SFT, "steps=2"], "steps is already given by steps=1"),
        ([*SFT, "model={path: b}"], "model.path is already given by model.path=a"),
        ([*SFT, "name.first=b"], "name is the value 'x' (override name=x), not a section"),
    ],
)
def test_broken_overrides(overrides, message):
    assert message in fails(None, overrides, SFTConfig)


def test_the_job_key_must_agree(ppo_file):
    assert "run it with `mmrlhf ppo`" in fails(ppo_file, [], SFTConfig)
    assert "no such key" in fails(ppo_file, ["job=sft"], PPOConfig)


def test_read_job_kind(ppo_file, tmp_path):
    assert read_job_kind(ppo_file) is JobKind.PPO
    assert {kind.config for kind in JobKind} >= {SFTConfig, RewardModelConfig, PPOConfig, EvaluateConfig}
    other = tmp_path / "other.yaml"
    other.write_text("name: x\n")
    with pytest.raises(ConfigError, match="expected a top-level `job:` key, one of sft"):
        read_job_kind(other)
    other.write_text("job: dqn\n")
    with pytest.raises(ConfigError, match="expected one of sft, reward-model, preference, .*, got 'dqn'"):
        read_job_kind(other)


def test_part_of_a_section_leaves_the_other_defaults_as_they_are(ppo_file):
    cfg = load_config(ppo_file, ["placement.policy.num_gpus=1", "placement.critic.num_cpus=0.5"], PPOConfig)
    untouched = load_config(ppo_file, [], PPOConfig)
    assert cfg.placement.policy.replicas == untouched.placement.policy.replicas == 2
    assert cfg.placement.critic.replicas == untouched.placement.critic.replicas == 2


def test_dates_and_exponents_are_read_as_people_mean_them(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("name: 2024-01-01\nmodel: {path: a}\ndata: {path: b}\nsteps: 1\nlearner: {optimizer: {lr: 5E-7}}\n")
    cfg = load_config(path, [], SFTConfig)
    assert (cfg.name, cfg.learner.optimizer.lr) == ("2024-01-01", 5e-7)


def test_anchors_and_merge_keys_work(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("name: x\npolicy: &m {path: a, dtype: bfloat16}\nbaseline: {<<: *m, path: /z}\ndata: {path: b}\n")
    cfg = load_config(path, [], EvaluateConfig)
    assert (cfg.baseline.path, cfg.baseline.dtype) == ("/z", "bfloat16")


def test_dotted_keys_reach_into_optional_sections():
    assert {"steps", "algorithm.kl_coef", "placement.policy.num_gpus"} <= set(dotted_keys(PPOConfig))
    assert {"baseline", "baseline.path", "reward_model.shape.hidden_size"} <= set(dotted_keys(EvaluateConfig))
