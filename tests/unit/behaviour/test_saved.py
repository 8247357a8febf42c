"""A behaviour's policy on disk and back, and directories whose files do not belong together."""

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from ray.rllib.core.rl_module.torch import TorchRLModule
from safetensors.torch import load_file, save_file

from mmrlhf_ray.behaviour.env import RecordedEnv
from mmrlhf_ray.behaviour.module import best_action, module_spec
from mmrlhf_ray.behaviour.saved import load_policy, save_policy
from mmrlhf_ray.config import BehaviourConfig
from mmrlhf_ray.discrete.files import WEIGHTS_FILE
from mmrlhf_ray.discrete.saved import built
from mmrlhf_ray.errors import ConfigError
from tests.unit.behaviour_tiny import job


def make(cfg: BehaviourConfig) -> TorchRLModule:
    with closing(RecordedEnv(cfg)) as env:
        return built(module_spec(cfg, env), cfg.algorithm)


@pytest.mark.parametrize("kind", ["ppo", "dqn"])
def test_what_is_loaded_acts_as_what_was_saved(kind: str, tmp_path: Path) -> None:
    cfg = job(algorithm={"kind": kind})
    module = make(cfg)
    if kind == "dqn":
        module.make_target_networks()
    save_policy(module, cfg, tmp_path)
    loaded, again = load_policy(tmp_path)
    assert loaded == cfg
    left_out = ("_target", "critic")
    own = {name: value for name, value in module.state_dict().items() if not name.startswith(left_out)}
    assert again.state_dict().keys() == own.keys()
    assert all(torch.equal(value, own[name]) for name, value in again.state_dict().items())
    with closing(RecordedEnv(cfg)) as env:
        observation = env.begin(0)
    assert np.array_equal(best_action(again, observation), best_action(module, observation))


@pytest.mark.parametrize("name", ["pi.weight", "body.layers.0.bias"])
def test_a_weight_that_is_missing_or_new_is_named(name: str, tmp_path: Path) -> None:
    save_policy(make(job()), job(), tmp_path)
    weights = load_file(tmp_path / WEIGHTS_FILE)
    for changed in (
        {n: v for n, v in weights.items() if n != name},
        weights | {f"{name}.more": torch.ones(1)},
        weights | {name: torch.ones(3, 3)},
    ):
        save_file(changed, tmp_path / WEIGHTS_FILE)
        with pytest.raises(ConfigError, match=f"do not belong together, see {name}"):
            load_policy(tmp_path)


def test_nothing_there_says_what_to_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file; name the directory of a finished"):
        load_policy(tmp_path)
