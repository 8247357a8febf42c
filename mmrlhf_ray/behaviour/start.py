"""From a job to a running RLlib algorithm, and from its runners the segments they recorded."""

from collections.abc import Mapping
from typing import Any

import gymnasium
from ray import tune
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.env.env_runner import EnvRunner
from ray.rllib.env.env_runner_group import EnvRunnerGroup
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner
from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS, LEARNER_RESULTS

from mmrlhf_ray.behaviour.env import COST, TRUE_RETURN, RecordedEnv
from mmrlhf_ray.behaviour.learned_reward import LearnedReward
from mmrlhf_ray.behaviour.module import module_spec
from mmrlhf_ray.behaviour.segments import Recorded
from mmrlhf_ray.config.behaviour import BehaviourConfig
from mmrlhf_ray.discrete.algorithms import algorithm_config, build
from mmrlhf_ray.discrete.start import LEARNED

ENVIRONMENT = "mmrlhf-behaviour"
"""The name under which RLlib finds the environment."""
_SEED_STRIDE = 1_000_003
"""Between the seeds of two steps that a run may continue from, as in discrete/start.py."""


class EpisodeFigures(RLlibCallback):
    """Adds up true returns and costs, which training does not see."""

    def on_episode_end(  # type: ignore[override]  # RLlib names all that it gives; the rest is in `_`
        self, *, episode: Any, metrics_logger: Any, **_: Any
    ) -> None:
        said = episode.get_infos(-1)
        metrics_logger.log_value("episodes_ended", 1, reduce="sum")
        metrics_logger.log_value("true_returns", float(said[TRUE_RETURN]), reduce="sum")
        metrics_logger.log_value("costs", float(said[COST]), reduce="sum")


def make_env(env_config: Mapping[str, Any]) -> gymnasium.Env[Any, Any]:
    """The environment of a runner. env_config: "cfg"."""
    return RecordedEnv(env_config["cfg"])


def start(cfg: BehaviourConfig, first: int = 0) -> Algorithm:
    """The algorithm at its beginning; Ray must be up. first: the step that it continues from, which moves its seed.

    Raises ConfigError where the configuration does not fit together.
    """
    tune.register_env(ENVIRONMENT, make_env)
    env = RecordedEnv(cfg)
    try:
        space, actions = env.observation_space, env.action_space
        config = algorithm_config(cfg, ENVIRONMENT, {"cfg": cfg}, module_spec(cfg, env)).callbacks(EpisodeFigures)
    finally:
        env.close()
    # Actions are from −1 to 1 and clipped by the environment, so that records, votes and training have the same ones.
    config = config.environment(normalize_actions=False, clip_actions=False)
    if cfg.learn_from == "votes":
        config = config.learners(learner_connector=lambda *_: LearnedReward(cfg, space, actions))
    return build(config.debugging(seed=cfg.seed + _SEED_STRIDE * first))


def recorded(algorithm: Algorithm) -> list[Recorded]:
    """The segments that all runners have recorded since the last call."""
    taken = _runners(algorithm).foreach_env_runner(_take, local_env_runner=_acting(algorithm) == 0)
    return [segment for own in taken for segment in own]


def act(algorithm: Algorithm, decisions: int) -> list[Recorded]:
    """Segments of so many steps of the policy as it is, from which nothing is learned."""
    runners = max(_acting(algorithm), 1)

    def sample(runner: EnvRunner) -> None:
        runner.sample(num_timesteps=-(-decisions // runners), explore=True)

    _runners(algorithm).foreach_env_runner(sample, local_env_runner=_acting(algorithm) == 0)
    return recorded(algorithm)


def step_metrics(result: Mapping[str, Any]) -> dict[str, float]:
    """Of one `train()`: `true_return` and `cost` (means of the episodes that ended), losses, `lr`."""
    sampled, metrics = result.get(ENV_RUNNER_RESULTS, {}), {}
    episodes = float(sampled.get("episodes_ended", 0.0))
    if episodes:
        metrics = {
            "episodes": episodes,
            "true_return": float(sampled["true_returns"]) / episodes,
            "cost": float(sampled["costs"]) / episodes,
        }
    learned = result.get(LEARNER_RESULTS, {}).get(DEFAULT_MODULE_ID, {})
    return metrics | {ours: float(learned[theirs]) for theirs, ours in LEARNED.items() if theirs in learned}


def _runners(algorithm: Algorithm) -> EnvRunnerGroup:
    assert algorithm.env_runner_group is not None
    return algorithm.env_runner_group


def _acting(algorithm: Algorithm) -> int:
    """Actors that act; 0 = the driver does."""
    assert algorithm.config is not None
    return int(algorithm.config.num_env_runners)


def _take(runner: EnvRunner) -> list[Recorded]:
    assert isinstance(runner, SingleAgentEnvRunner)
    vector: Any = runner.env
    taken: list[Recorded] = []
    for env in vector.unwrapped.envs:
        own = env.unwrapped
        assert isinstance(own, RecordedEnv)
        taken += own.take()
    return taken
