"""A module on disk and back, and directories that hold none."""

import pytest
import torch

from mmrlhf_ray.config.load import save_config
from mmrlhf_ray.discrete.files import CONFIG_FILE, WEIGHTS_FILE
from mmrlhf_ray.discrete.module import DecisionNet
from mmrlhf_ray.discrete.saved import inference_module, load_net, load_weights, save_module
from mmrlhf_ray.errors import ConfigError
from tests.unit.discrete_nets import TWO_TASKS, make, net_job, observations


@pytest.mark.parametrize("algorithm", ["ppo", "dqn", "clone"])
@pytest.mark.parametrize("of", [make, inference_module], ids=["learner", "runner"])
def test_what_is_loaded_decides_as_what_was_saved(algorithm, of, tmp_path):
    cfg = net_job(algorithm, "attention", tasks=TWO_TASKS)
    module = of(cfg)
    if algorithm == "dqn" and of is make:
        module.make_target_networks()
    save_module(module, tmp_path)
    loaded, net = load_net(tmp_path)
    seen = observations(cfg, 8)
    assert loaded == cfg
    assert torch.equal(net(seen), DecisionNet(module)(seen))
    assert not any(name.startswith("_target") for name in load_weights(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == [CONFIG_FILE, WEIGHTS_FILE]


def test_nothing_there_says_what_to_name(tmp_path):
    with pytest.raises(ConfigError, match="module.safetensors: no such file; name the directory of a finished"):
        load_net(tmp_path)


def test_a_damaged_file_is_named(tmp_path):
    save_module(make(net_job()), tmp_path)
    (tmp_path / WEIGHTS_FILE).write_bytes(b"not weights")
    with pytest.raises(ConfigError, match="module.safetensors: cannot be read"):
        load_net(tmp_path)


@pytest.mark.parametrize("other", [net_job("ppo", "weighted"), net_job("ppo", stage="early")])
def test_weights_of_another_network_are_refused(other, tmp_path):
    save_module(make(net_job("ppo")), tmp_path)
    save_config(other, tmp_path / CONFIG_FILE)
    with pytest.raises(ConfigError, match="do not belong together"):
        load_net(tmp_path)


def test_weights_of_another_size_are_refused(tmp_path):
    save_module(make(net_job("ppo")), tmp_path)
    save_config(net_job("ppo", fusion={"width": 8, "hidden": [13], "heads": 2}), tmp_path / CONFIG_FILE)
    with pytest.raises(ConfigError, match="do not belong together"):
        load_net(tmp_path)
