"""A trained policy on disk: weights in safetensors next to the configuration that they were trained with."""

from pathlib import Path

from ray.rllib.core.rl_module.torch import TorchRLModule
from safetensors.torch import save_file

from mmrlhf_ray.behaviour.env import RecordedEnv
from mmrlhf_ray.behaviour.module import CRITIC, module_spec
from mmrlhf_ray.behaviour.reward import RewardEnsemble
from mmrlhf_ray.config.behaviour import BehaviourConfig
from mmrlhf_ray.config.load import load_config, save_config
from mmrlhf_ray.discrete.files import CONFIG_FILE, MODULE_DIR
from mmrlhf_ray.discrete.saved import built, load_weights, put_weights, write_weights

REWARD_FILE = "reward_models.safetensors"
"""In the same directory: the ensemble that the policy learned from."""

__all__ = ["MODULE_DIR", "REWARD_FILE", "load_policy", "save_policy", "save_rewards"]


def save_policy(module: TorchRLModule, cfg: BehaviourConfig, directory: Path) -> None:
    """Write weights and configuration into a directory, replacing what is there."""
    directory.mkdir(parents=True, exist_ok=True)
    save_config(cfg, directory / CONFIG_FILE)
    write_weights(module, directory)


def save_rewards(ensemble: RewardEnsemble, directory: Path) -> None:
    """Write the reward models next to the policy."""
    save_file(ensemble.state_dict(), directory / REWARD_FILE)


def load_policy(directory: Path) -> tuple[BehaviourConfig, TorchRLModule]:
    """A run's configuration and its trained policy, for best_action(). Raises ConfigError where there is none,
    or weights and configuration do not belong together."""
    weights = load_weights(directory)
    cfg = load_config(directory / CONFIG_FILE, (), BehaviourConfig)
    env = RecordedEnv(cfg)
    try:
        spec = module_spec(cfg, env)
    finally:
        env.close()
    spec.inference_only = True
    module = built(spec, cfg.algorithm)
    put_weights(module, {n: v for n, v in weights.items() if not n.startswith(CRITIC)}, directory)
    return cfg, module
