"""RLlib's algorithms as this project configures them: DQN, PPO, A2C, REINFORCE and cloning.

Nothing is re-implemented: each function below turns one section of the configuration into RLlib's settings. A2C and
REINFORCE are settings of RLlib's PPO, as its documentation suggests since it has no classes for them any more.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import gymnasium
import numpy as np
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.dqn import DQNConfig
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from mmrlhf_ray.config import DiscreteConfig
from mmrlhf_ray.config.discrete import EnvRunnersSection, LearnersSection
from mmrlhf_ray.config.discrete_parts import A2C, DQN, PPO, ActorCritic, AlgorithmKeys, Clone, Reinforce
from mmrlhf_ray.discrete.cloning import CloningConfig
from mmrlhf_ray.errors import ConfigError

_NEVER_CLIPPED = 1e9
"""A bound that no ratio and no error reaches."""


class RLlibJob(Protocol):
    """What RLlib's settings are made from: the keys that jobs on RLlib share."""

    @property
    def algorithm(self) -> AlgorithmKeys:
        """How is learned."""

    @property
    def steps(self) -> int:
        """Of the run."""

    @property
    def decisions_per_step(self) -> int:
        """Actions in each."""

    @property
    def env_runners(self) -> EnvRunnersSection:
        """Actors that act."""

    @property
    def learners(self) -> LearnersSection:
        """Actors that learn."""

    @property
    def seed(self) -> int:
        """Of all chance."""


def algorithm_config(
    cfg: RLlibJob, env: str | type[gymnasium.Env[Any, Any]], env_config: Mapping[str, Any], module: RLModuleSpec
) -> AlgorithmConfig:
    """RLlib's configuration of a job, ready for `build()`. One `train()` of it is one step of the job.

    env: a class, or the name under which one is registered. Raises ConfigError where learners do not divide a batch.
    """
    runners, learners = cfg.env_runners, cfg.learners
    config = _KINDS[type(cfg.algorithm)](cfg)
    return (
        config.environment(env, env_config=dict(env_config))
        .framework("torch")
        .env_runners(
            num_env_runners=runners.replicas,
            num_envs_per_env_runner=runners.envs,
            num_cpus_per_env_runner=runners.num_cpus,  # type: ignore[arg-type]  # Ray takes fractions
            num_gpus_per_env_runner=runners.num_gpus,
        )
        .learners(
            num_learners=learners.replicas,
            num_cpus_per_learner=learners.num_cpus,
            num_gpus_per_learner=learners.num_gpus,
        )
        .training(lr=learning_rate(cfg), gamma=cfg.algorithm.gamma, grad_clip=cfg.algorithm.max_grad_norm)
        .rl_module(rl_module_spec=module)
        .debugging(seed=cfg.seed, log_level="ERROR")
        .reporting(min_time_s_per_iteration=0, metrics_num_episodes_for_smoothing=cfg.decisions_per_step)
    )


def build(config: AlgorithmConfig) -> Algorithm:
    """The algorithm, with the one source of chance seeded that RLlib leaves out: its replay buffer's."""
    algorithm = config.build_algo()
    if algorithm.local_replay_buffer is not None:
        algorithm.local_replay_buffer.rng = np.random.default_rng(config.seed)
    return algorithm


def learning_rate(cfg: RLlibJob) -> float | list[list[float]]:
    """A number, or RLlib's schedule [[decisions, rate], …] of a straight line from `lr` to `lr_end`."""
    a = cfg.algorithm
    return a.lr if a.lr_end is None else [[0, a.lr], [cfg.steps * cfg.decisions_per_step, a.lr_end]]


def per_learner(cfg: RLlibJob, key: str, rows: int) -> int:
    """`rows` over the learners. Raises ConfigError where they do not divide."""
    learners = max(cfg.learners.replicas, 1)
    if rows % learners:
        raise ConfigError(f"{key}={rows} must be a multiple of learners.replicas={learners}")
    return rows // learners


def _dqn(cfg: RLlibJob) -> AlgorithmConfig:
    """Deep Q-learning: minimise the Huber loss of Q(s, a) − (r + γ·Q'(s', argmax Q(s', ·)))."""
    a = cfg.algorithm
    assert isinstance(a, DQN)
    runners, envs = max(cfg.env_runners.replicas, 1), cfg.env_runners.envs
    # Decisions between two rounds of updates: enough for one update at least.
    fragment = math.ceil(1.0 / (a.updates_per_decision * runners * envs))
    updates = max(1, round(a.updates_per_decision * fragment * runners * envs))
    # RLlib counts one runner more than there are when it turns the intensity into updates per round.
    sampled = fragment * envs * (cfg.env_runners.replicas + 1)
    buffer = "PrioritizedEpisodeReplayBuffer" if a.prioritized else "EpisodeReplayBuffer"
    return (
        DQNConfig()
        .training(
            double_q=a.double,
            dueling=a.dueling,
            epsilon=[[0, a.epsilon.start], [a.epsilon.decisions, a.epsilon.end]],
            train_batch_size_per_learner=per_learner(cfg, "algorithm.batch_size", a.batch_size),
            training_intensity=updates * a.batch_size / sampled,
            replay_buffer_config={"type": buffer, "capacity": a.buffer},
            num_steps_sampled_before_learning_starts=a.learning_starts,
            target_network_update_freq=a.target_every,
        )
        .env_runners(rollout_fragment_length=fragment)
        .reporting(min_sample_timesteps_per_iteration=cfg.decisions_per_step)
    )


def _ppo(cfg: RLlibJob) -> AlgorithmConfig:
    """Proximal policy optimisation with a clipped ratio; no term for the KL."""
    a = cfg.algorithm
    assert isinstance(a, PPO)
    return _on_policy(cfg, a).training(
        clip_param=a.clip_range,
        vf_clip_param=a.value_clip_range,
        num_epochs=a.ppo_epochs,
        minibatch_size=per_learner(cfg, "algorithm.mini_batch_size", a.mini_batch_size),
    )


def _a2c(cfg: RLlibJob) -> AlgorithmConfig:
    """Advantage actor-critic: PPO's ratio is 1 in the only pass over the only batch, so its loss is −A·log π's."""
    a = cfg.algorithm
    assert isinstance(a, A2C)
    return _on_policy(cfg, a).training(
        clip_param=_NEVER_CLIPPED, vf_clip_param=_NEVER_CLIPPED, num_epochs=1, minibatch_size=None
    )


def _reinforce(cfg: RLlibJob) -> AlgorithmConfig:
    """A2C without a critic: whole episodes, λ = 1, and a module whose values are zero, so that advantages are returns.

    RLlib brings them to mean 0 and standard deviation 1 over the batch, which is a constant baseline and a step size.
    """
    a = cfg.algorithm
    assert isinstance(a, Reinforce)
    without = ActorCritic(
        lr=a.lr, gamma=a.gamma, max_grad_norm=a.max_grad_norm, entropy_coef=a.entropy_coef, vf_coef=0.0, gae_lambda=1.0
    )
    return (
        _on_policy(cfg, without)
        .training(use_critic=False, clip_param=_NEVER_CLIPPED, num_epochs=1, minibatch_size=None)
        .env_runners(batch_mode="complete_episodes")
    )


def _on_policy(cfg: RLlibJob, a: ActorCritic) -> PPOConfig:
    return (
        PPOConfig()
        .training(
            lambda_=a.gae_lambda,
            use_kl_loss=False,
            vf_loss_coeff=a.vf_coef,
            entropy_coeff=a.entropy_coef,
            train_batch_size_per_learner=per_learner(cfg, "decisions_per_step", cfg.decisions_per_step),
        )
        .env_runners(rollout_fragment_length="auto")
    )


def _clone(cfg: RLlibJob) -> AlgorithmConfig:
    """Supervised learning of decisions: maximise log π of the right one, L′ = L + λH with votes."""
    a = cfg.algorithm
    assert isinstance(a, Clone)
    assert isinstance(cfg, DiscreteConfig)
    return (
        CloningConfig()
        .cloning(
            coef=cfg.human_loss.coef if cfg.human_loss else 0.0,
            updates=max(1, cfg.decisions_per_step // a.batch_size),
        )
        .training(train_batch_size_per_learner=per_learner(cfg, "algorithm.batch_size", a.batch_size))
    )


_KINDS: Mapping[type, Callable[[RLlibJob], AlgorithmConfig]] = {
    DQN: _dqn, PPO: _ppo, A2C: _a2c, Reinforce: _reinforce, Clone: _clone,
}  # fmt: skip
