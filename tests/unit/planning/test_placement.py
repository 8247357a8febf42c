import pytest
import yaml

from mmrlhf_ray.config import (
    DiscreteConfig,
    EvaluateConfig,
    PPOConfig,
    PreferenceConfig,
    RunConfig,
    SFTConfig,
    load_config,
)
from mmrlhf_ray.errors import ConfigError, PlacementError
from mmrlhf_ray.planning.placement import check_consistent, check_fits, reservations
from mmrlhf_ray.training.preference_tasks import OBJECTIVES

REWARDS = "rewards=[{name: rm, kind: model, model: {path: r}}]"
BASE = ["name=x", "policy.path=p", REWARDS, "data.path=d"]
DISCRETE = [
    "name=x",
    "tasks.t={kind: decide, classes: [a, b], train: {path: d}, heldout: {path: d}}",
    "observation.modalities.said={kind: text}",
    "algorithm={kind: ppo}",
]
SFT = ["name=x", "model.path=p", "data.path=d", "steps=1"]


def ppo(*overrides: str) -> PPOConfig:
    return load_config(None, [*BASE, *overrides], PPOConfig)


def test_a_job_that_fits_passes():
    check_fits(ppo(), 8, 0)
    check_fits(ppo("placement.policy.num_cpus=0.1"), 6.2, 0)


def test_too_few_cpus_names_need_have_and_key():
    with pytest.raises(PlacementError) as caught:
        check_fits(ppo("placement.policy.replicas=4"), 2, 0)
    message = str(caught.value)
    assert "the cluster has 2 CPUs, the job needs 10: encoder 1 × 1" in message
    assert "policy 4 × 1" in message
    assert "lower placement.policy.num_cpus or placement.policy.replicas" in message


def test_too_few_gpus_and_cpus_are_reported_together():
    with pytest.raises(PlacementError, match=r"2 CPUs.*; the cluster has 1 GPUs, the job needs 2: critic 2 × 1"):
        check_fits(ppo("placement.critic.num_gpus=1"), 2, 1)


def test_ray_train_jobs_reserve_their_workers():
    cfg = load_config(None, [*SFT, "workers.replicas=4"], SFTConfig)
    with pytest.raises(PlacementError, match=r"needs 4: workers 4 × 1; lower workers.num_cpus or workers"):
        check_fits(cfg, 2, 0)


def test_evaluation_reserves_the_roles_it_uses():
    def roles(*more):
        cfg = load_config(None, ["name=x", "policy.path=p", "data.path=d", *more], EvaluateConfig)
        return [r.role for r in reservations(cfg)]

    assert roles() == ["encoder", "generator"]
    assert roles("baseline.path=b", "reward_model.path=r") == ["encoder", "generator", "scorer", "reference"]


def test_an_unknown_job_is_a_programming_error():
    for said in ("roles", "models", "records"):
        with pytest.raises(TypeError, match=f"RunConfig does not say its {said}"):
            getattr(RunConfig(name="x"), said)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["device=cpu", "placement.scorer.num_gpus=1"], "device=cpu, but placement.scorer.num_gpus=1"),
        (["device=cuda", "placement.generator.num_gpus=1"], "device=cuda, but placement.critic.num_gpus=0"),
        (["placement.generator.num_gpus=2"], "num_gpus=2 must equal generator.tensor_parallel_size=1"),
        (["generator.tensor_parallel_size=2"], "tensor_parallel_size=2 needs placement.generator.num_gpus=2, got 0"),
        (["placement.generator.num_gpus=0.5"], "gpu_memory_utilization=0.6 is more than the share"),
        (["placement.policy.num_gpus=2"], "a learner rank drives one GPU; raise placement.policy.replicas"),
        (
            ["learner.engine={zero_stage: 0, offload_optimizer: true}"],
            "needs learner.engine.zero_stage 1, 2 or 3",
        ),
        (
            ["learner.engine.attention=flash_attention_2"],
            "learner.engine.attention=flash_attention_2 needs a GPU; choose sdpa or auto",
        ),
        (
            ["placement.critic.num_gpus=1", "critic.engine.attention=flash_attention_3"],
            "critic.engine.attention=flash_attention_3 computes in bfloat16, and the model's dtype is float32",
        ),
        (
            [
                "placement.colocate=[[policy, reference]]",
                "placement.reference.replicas=2",
                "learner.engine.zero_stage=0",
            ],
            "learner.engine.zero_stage=0: DeepSpeed cannot move such a learner off the device",
        ),
        (
            ["placement.policy.replicas=3", "learner.engine.sequence_parallel=2"],
            "learner.engine.sequence_parallel=2 must divide placement.policy.replicas=3",
        ),
        (
            ["learner.engine={micro_batch_tokens: 500, sequence_parallel: 2}"],
            "learner.engine.micro_batch_tokens × sequence_parallel=1000 is less than",
        ),
        (["learner.engine.micro_batch_tokens=1000"], "learner.engine.micro_batch_tokens=1000 is less than"),
        (["score_micro_batch_tokens=1000"], "score_micro_batch_tokens=1000 is less than"),
    ],
)
def test_contradictions(overrides, message):
    with pytest.raises(ConfigError) as caught:
        check_consistent(ppo(*overrides))
    assert message in str(caught.value)


def test_all_contradictions_come_at_once():
    with pytest.raises(ConfigError, match=r"^2 contradictions"):
        check_consistent(ppo("generator.tensor_parallel_size=2", "critic.engine.micro_batch_tokens=9"))


def test_the_defaults_agree():
    check_consistent(ppo())


@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        (PPOConfig, [*BASE, "placement.policy={replicas: 24, num_cpus: 0.5}", "placement.encoder.num_cpus=8"]),
        (SFTConfig, [*SFT, "batch_size=9", "workers.replicas=9"]),
        (DiscreteConfig, [*DISCRETE, "env_runners={replicas: 3, envs: 4}", "learners={replicas: 2, num_cpus: 1.5}"]),
    ],
)
def test_what_is_said_to_fit_fits_and_changes_nothing_else(kind, keys, tmp_path):
    cfg = load_config(None, keys, kind)
    with pytest.raises(PlacementError) as caught:
        check_fits(cfg, 2, 0, "this machine")
    head, block = str(caught.value).split("This would fit:\n\n")
    assert head.startswith("this machine has 2 CPUs, the job needs ")
    (tmp_path / "fits.yaml").write_text(block)
    sections = [key.partition(".")[0].partition("=")[0] for key in keys]
    others = [k for k, section in zip(keys, sections, strict=True) if section not in yaml.safe_load(block)]
    fits = load_config(tmp_path / "fits.yaml", others, kind)
    check_fits(fits, 2, 0)
    assert sum(r.total_cpus for r in reservations(fits)) > 1.5
    same = {"num_cpus": None}
    for role, placed in cfg.roles.items():
        assert fits.roles[role].model_dump() | same == placed.model_dump() | same


def test_gpus_that_are_lacking_are_not_conjured_up():
    with pytest.raises(PlacementError) as caught:
        check_fits(ppo("placement.critic.num_gpus=1"), 99, 0)
    assert str(caught.value).endswith("or use a larger cluster")


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_who_compares_with_a_reference_holds_all_rows(objective):
    cfg = load_config(
        None, ["name=x", "model.path=m", "data.path=d", "steps=1", f"objective={objective}"], PreferenceConfig
    )
    assert (cfg.records["data"].held_for is not None) is OBJECTIVES[objective].has_reference
