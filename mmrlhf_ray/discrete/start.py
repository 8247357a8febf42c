"""From a job's material to a running RLlib algorithm, and back to a module and its figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import ray
import torch
from ray import tune
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.learner.learner import (
    DEFAULT_OPTIMIZER,
    ENTROPY_KEY,
    LR_KEY,
    POLICY_LOSS_KEY,
    VF_LOSS_KEY,
    Learner,
)
from ray.rllib.core.rl_module.torch import TorchRLModule
from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS, LEARNER_RESULTS

from mmrlhf_ray.config import DiscreteConfig
from mmrlhf_ray.discrete.algorithms import algorithm_config, build
from mmrlhf_ray.discrete.cases import Observations
from mmrlhf_ray.discrete.cloning import CloningBatches, CloningConfig
from mmrlhf_ray.discrete.decide import Preferences
from mmrlhf_ray.discrete.env import DecisionEnv, SeededOnce, TaskCases
from mmrlhf_ray.discrete.feedback import CloningData
from mmrlhf_ray.discrete.module import DecisionNet, module_spec, warm_start
from mmrlhf_ray.discrete.saved import inference_module, load_weights, save_module

ENVIRONMENT = "mmrlhf-decisions"
"""The name under which RLlib finds the environment."""
_SEED_STRIDE = 1_000_003
"""Between the seeds of two steps that a run may go on with: a resumed run must not draw again what it drew from the
start."""
EPISODE_REWARD, TOTAL_REWARD, COST = "episode reward", "total reward", "cost"

LEARNED: Mapping[str, str] = {
    Learner.TOTAL_LOSS_KEY: "loss",
    POLICY_LOSS_KEY: "policy_loss",
    VF_LOSS_KEY: "value_loss",
    ENTROPY_KEY: "entropy",
    "qf_mean": "q_mean",
    "td_error_mean": "td_error",
    "supervised_loss": "supervised_loss",
    "human_loss": "human_loss",
    f"{DEFAULT_OPTIMIZER}_{LR_KEY}": "lr",
}
"""RLlib's name → ours."""


@dataclass(frozen=True)
class Material:
    """A job's training data, one entry for each task in the configuration's order."""

    tasks: Sequence[TaskCases]
    cloning: Sequence[CloningData] = ()
    """For `clone`."""


class EpisodeSums(RLlibCallback):
    """Adds up what RLlib only averages."""

    def on_episode_end(  # type: ignore[override]  # RLlib names all that it gives; the rest is in `_`
        self, *, episode: Any, prev_episode_chunks: Any = None, metrics_logger: Any, **_: Any
    ) -> None:
        earned = sum(chunk.get_return() for chunk in [*(prev_episode_chunks or ()), episode])
        said = episode.get_infos(-1)
        metrics_logger.log_value("earned", float(earned), reduce="sum")
        for name, key in (("scored", "score"), ("cost", "cost"), ("asked", "asked")):
            metrics_logger.log_value(name, float(said.get(key, 0.0)), reduce="sum")
        metrics_logger.log_value("decided", 1, reduce="sum")


def make_env(env_config: Mapping[str, Any]) -> gymnasium.Env[Any, Any]:
    """The environment of a runner. env_config: "cfg", and "tasks", in Ray's object store or themselves."""
    tasks = env_config["tasks"]
    return SeededOnce(DecisionEnv(env_config["cfg"], ray.get(tasks) if isinstance(tasks, ray.ObjectRef) else tasks))


def start(cfg: DiscreteConfig, material: Material, first: int = 0) -> Algorithm:
    """The algorithm at its beginning; Ray must be up. first: the step that it goes on with, which moves its seed.

    Raises ConfigError where the configuration does not fit together.
    """
    tune.register_env(ENVIRONMENT, make_env)
    env_config = {"cfg": cfg, "tasks": ray.put(tuple(material.tasks))}
    config = algorithm_config(cfg, ENVIRONMENT, env_config, module_spec(cfg)).callbacks(EpisodeSums)
    if isinstance(config, CloningConfig):
        weights = [task.weight for task in cfg.tasks.values()]
        config.cloning(batches=ray.put(CloningBatches(material.cloning, weights, cfg.seed)))
    return build(config.debugging(seed=cfg.seed + _SEED_STRIDE * first))


def start_from(algorithm: Algorithm, cfg: DiscreteConfig, module_dir: Path) -> tuple[str, ...]:
    """Copy into the learners what the trained module of another run can give; names of the weights.

    Raises ConfigError where there is none, or the two runs do not fit.
    """
    trained = load_weights(module_dir)
    module = inference_module(cfg)
    taken = warm_start(module, trained)
    learners: Any = algorithm.learner_group
    runners: Any = algorithm.env_runner_group
    weights = dict(learners.get_weights()[DEFAULT_MODULE_ID])
    begun = module.state_dict()
    for name in taken:
        for own in (name, f"_target_{name}"):
            if own in weights:
                weights[own] = begun[name].numpy()
    learners.set_weights({DEFAULT_MODULE_ID: weights})
    runners.sync_weights(from_worker_or_learner_group=learners, inference_only=True)
    return taken


def give_multiplier(algorithm: Algorithm, value: float) -> None:
    """Have all environments weigh costs with this λ from now on."""
    runners: Any = algorithm.env_runner_group
    runners.foreach_env_runner(lambda runner: runner.env.unwrapped.set_attr("multiplier", value))


def net_of(algorithm: Algorithm) -> DecisionNet:
    """The policy as it is now."""
    module = algorithm.get_module()
    assert isinstance(module, TorchRLModule)
    return DecisionNet(module)


def save_policy(algorithm: Algorithm, directory: Path) -> None:
    """Write the policy as it is now, to be started from, exported and served."""
    module = algorithm.get_module()
    assert isinstance(module, TorchRLModule)
    save_module(module, directory)


def tensors(observations: Observations) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(values) for name, values in observations.items()}


def preferences_of(net: DecisionNet) -> Preferences:
    """As decide() wants them: numpy in, numpy out, no gradient."""

    def preferences(observations: Observations) -> Any:
        with torch.inference_mode():
            return net(tensors(observations)).numpy()

    return preferences


def step_metrics(result: Mapping[str, Any], earlier_reward: float) -> dict[str, float]:
    """Of one `train()`: means `episode reward` and `cost`, `total reward` (of the run), `train_score`, losses, `lr`."""
    sampled, metrics = result.get(ENV_RUNNER_RESULTS, {}), {}
    episodes = float(sampled.get("decided", 0.0))
    if episodes:
        metrics[EPISODE_REWARD] = float(sampled["earned"]) / episodes
        metrics[TOTAL_REWARD] = earlier_reward + float(sampled["earned"])
        metrics["train_score"] = float(sampled["scored"]) / episodes
        metrics["requests"] = float(sampled["asked"]) / episodes
        metrics[COST] = float(sampled["cost"]) / episodes
        metrics["decisions"] = episodes
    learned = result.get(LEARNER_RESULTS, {}).get(DEFAULT_MODULE_ID, {})
    return metrics | {ours: float(learned[theirs]) for theirs, ours in LEARNED.items() if theirs in learned}
