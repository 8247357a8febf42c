"""How a configuration becomes RLlib's; what the settings compute is in tests/golden/test_discrete_formulas.py."""

from typing import Any

import pytest
from pydantic import ValidationError
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.dqn.dqn import calculate_rr_weights

from mmrlhf_ray.discrete.algorithms import algorithm_config
from mmrlhf_ray.discrete.module import module_spec
from mmrlhf_ray.errors import ConfigError
from tests.unit.discrete_tiny import job


def _config(algorithm: dict[str, Any], **keys: Any) -> AlgorithmConfig:
    cfg = job(algorithm=algorithm, **keys)
    return algorithm_config(cfg, "unused", {}, module_spec(cfg))


@pytest.mark.parametrize(("replicas", "envs"), [(0, 8), (1, 8), (2, 4), (0, 1), (3, 32)])
@pytest.mark.parametrize("updates", [0.0625, 0.25, 1.0])
def test_dqn_learns_as_often_as_it_is_told(replicas: int, envs: int, updates: float) -> None:
    dqn = {"kind": "dqn", "updates_per_decision": updates}
    config = _config(dqn, env_runners={"replicas": replicas, "envs": envs})
    sampled = config.get_rollout_fragment_length() * envs * max(replicas, 1)
    store, learn = calculate_rr_weights(config)
    assert store == 1
    assert learn / sampled == pytest.approx(updates, rel=0.01)


def test_dqn_settings() -> None:
    config = _config({"kind": "dqn", "double": False, "prioritized": False, "gamma": 0.5, "target_every": 77})
    assert (config.double_q, config.dueling, config.gamma, config.target_network_update_freq) == (False, True, 0.5, 77)
    assert config.replay_buffer_config["type"] == "EpisodeReplayBuffer"
    assert config.epsilon == [[0, 1.0], [10_000, 0.05]]


def test_a2c_is_one_unclipped_pass_over_the_whole_batch() -> None:
    config = _config({"kind": "a2c"}, decisions_per_step=512)
    assert (config.num_epochs, config.minibatch_size, config.train_batch_size_per_learner) == (1, None, 512)
    assert config.clip_param >= 1e9
    assert not config.use_kl_loss


def test_reinforce_has_no_critic_and_whole_episodes() -> None:
    config = _config({"kind": "reinforce"})
    assert not config.use_critic
    assert config.lambda_ == 1.0
    assert config.batch_mode == "complete_episodes"


def test_batches_are_shared_among_learners() -> None:
    config = _config({"kind": "ppo", "mini_batch_size": 128}, learners={"replicas": 2}, decisions_per_step=1000)
    assert (config.train_batch_size_per_learner, config.minibatch_size) == (500, 64)
    with pytest.raises(ConfigError, match=r"algorithm\.batch_size=65 must be a multiple of learners\.replicas=2"):
        _config({"kind": "dqn", "batch_size": 65}, learners={"replicas": 2})


def test_the_seed_is_rllibs() -> None:
    assert _config({"kind": "ppo"}, seed=9).seed == 9


def test_the_learning_rate_falls_over_the_whole_job() -> None:
    assert _config({"kind": "dqn", "lr": 0.01}).lr == 0.01
    falling = {"kind": "dqn", "lr": 0.01, "lr_end": 0.001}
    assert _config(falling, steps=7, decisions_per_step=100).lr == [[0, 0.01], [700, 0.001]]
    with pytest.raises(ValidationError, match=r"lr_end=0\.1 must not be above algorithm\.lr=0\.01"):
        _config(falling | {"lr_end": 0.1})
