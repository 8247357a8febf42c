import pytest

from mmrlhf_ray.config import EvaluateConfig, PPOConfig, RunConfig, SFTConfig, load_config
from mmrlhf_ray.errors import ConfigError, PlacementError
from mmrlhf_ray.planning.placement import check_consistent, check_fits, reservations

REWARDS = "rewards=[{name: rm, kind: model, model: {path: r}}]"
BASE = ["name=x", "policy.path=p", REWARDS, "data.path=d"]
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
    assert "needs 10 CPUs" in message
    assert "policy 4 × 1" in message
    assert "the cluster has 2" in message
    assert "lower placement.policy.num_cpus or placement.policy.replicas" in message


def test_too_few_gpus_and_cpus_are_reported_together():
    with pytest.raises(PlacementError, match=r"CPUs.*; the job needs 2 GPUs \(critic 2 × 1\), the cluster has 1"):
        check_fits(ppo("placement.critic.num_gpus=1"), 2, 1)


def test_ray_train_jobs_reserve_their_workers():
    cfg = load_config(None, [*SFT, "workers.replicas=4"], SFTConfig)
    with pytest.raises(PlacementError, match=r"needs 4 CPUs \(workers 4 × 1\).*lower workers.num_cpus or workers"):
        check_fits(cfg, 2, 0)


def test_evaluation_reserves_the_roles_it_uses():
    def roles(*more):
        cfg = load_config(None, ["name=x", "policy.path=p", "data.path=d", *more], EvaluateConfig)
        return [r.role for r in reservations(cfg)]

    assert roles() == ["encoder", "generator"]
    assert roles("baseline.path=b", "reward_model.path=r") == ["encoder", "generator", "scorer", "reference"]


def test_an_unknown_job_is_a_programming_error():
    with pytest.raises(TypeError, match="RunConfig"):
        reservations(RunConfig(name="x"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["device=cpu", "placement.scorer.num_gpus=1"], "device=cpu, but placement.scorer.num_gpus=1"),
        (["device=cuda", "placement.generator.num_gpus=1"], "device=cuda, but placement.critic.num_gpus=0"),
        (["placement.generator.num_gpus=2"], "num_gpus=2 must equal generator.tensor_parallel_size=1"),
        (["generator.tensor_parallel_size=2"], "tensor_parallel_size=2 needs placement.generator.num_gpus=2, got 0"),
        (["placement.generator.num_gpus=0.5"], "gpu_memory_utilization=0.6 is more than the share"),
        (["placement.policy.num_gpus=2"], "a learner rank drives one GPU; raise placement.policy.replicas"),
        (["critic.engine.offload_optimizer=true"], "offload_optimizer=true needs placement.critic.num_gpus"),
        (
            ["placement.policy.num_gpus=1", "learner.engine={zero_stage: 0, offload_optimizer: true}"],
            "needs learner.engine.zero_stage 1, 2 or 3",
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


def test_contradictions_come_before_need_and_have():
    with pytest.raises(ConfigError, match="tensor_parallel_size"):
        check_fits(ppo("generator.tensor_parallel_size=2"), 1, 0)
