"""A trained module on disk: weights in safetensors next to the configuration that they were trained with.

RLlib's own checkpoints, which a job resumes from, are pickles; this is what is kept, started from, exported and served.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.core.rl_module.torch import TorchRLModule
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mmrlhf_ray.config.discrete import DiscreteConfig
from mmrlhf_ray.config.discrete_parts import DQN
from mmrlhf_ray.config.load import load_config, save_config
from mmrlhf_ray.discrete.files import CONFIG_FILE, WEIGHTS_FILE
from mmrlhf_ray.discrete.module import DecisionNet, config_of, module_spec
from mmrlhf_ray.errors import ConfigError


def save_module(module: TorchRLModule, directory: Path) -> Path:
    """Write a module's weights and configuration into a directory, replacing what is there; the weights' file."""
    directory.mkdir(parents=True, exist_ok=True)
    save_config(config_of(module), directory / CONFIG_FILE)
    return write_weights(module, directory)


def write_weights(module: TorchRLModule, directory: Path) -> Path:
    """Put a module's weights in the place of those that a directory has; the file."""
    path = directory / WEIGHTS_FILE
    partial = path.with_name(f".{path.name}.partial")
    # Targets of Q-learning are copies that whoever goes on makes anew.
    state = {k: v.detach().cpu().contiguous() for k, v in module.state_dict().items() if not k.startswith("_target_")}
    save_file(state, partial)
    os.replace(partial, path)
    return path


def load_weights(directory: Path) -> dict[str, Tensor]:
    """The module that save_module() wrote. Raises ConfigError where there is none."""
    path = directory / WEIGHTS_FILE
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; name the directory of a finished run's module")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error


def load_net(directory: Path) -> tuple[DiscreteConfig, DecisionNet]:
    """A run's configuration and its trained network, on the CPU. Raises ConfigError where either cannot be read."""
    weights = load_weights(directory)
    cfg = load_config(directory / CONFIG_FILE, (), DiscreteConfig)
    module = inference_module(cfg)
    own = module.state_dict()
    put_weights(module, {n: value for n, value in weights.items() if n in own or not n.startswith("vf.")}, directory)
    return cfg, DecisionNet(module)


def put_weights(module: TorchRLModule, weights: Mapping[str, Tensor], directory: Path) -> None:
    """Give a module the weights of a directory. Raises ConfigError that names the first that one of both lacks, or that
    has another shape."""
    own = module.state_dict()
    unlike = sorted(own.keys() ^ weights.keys()) or sorted(n for n in own if weights[n].shape != own[n].shape)
    if unlike:
        raise ConfigError(
            f"{directory}: {WEIGHTS_FILE} and {CONFIG_FILE} do not belong together, see {unlike[0]}; take both from "
            "the same run"
        )
    module.load_state_dict(weights)


def inference_module(cfg: DiscreteConfig) -> TorchRLModule:
    """The job's module without a critic or targets, with fresh weights."""
    spec = module_spec(cfg)
    spec.inference_only = True
    return built(spec, cfg.algorithm)


def built(spec: RLModuleSpec, algorithm: object) -> TorchRLModule:
    """The module of a specification, without an algorithm of RLlib's around it; `algorithm`: the job's section."""
    if isinstance(algorithm, DQN):
        assert isinstance(spec.model_config, dict)
        # What RLlib adds where an algorithm builds it.
        spec.model_config |= {
            "dueling": algorithm.dueling, "double_q": algorithm.double, "num_atoms": 1, "epsilon": 0.0
        }  # fmt: skip
    module = spec.build()
    assert isinstance(module, TorchRLModule)
    return module
