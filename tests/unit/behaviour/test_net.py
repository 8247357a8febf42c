"""Networks over several modalities, and the modules that RLlib runs on them."""

from contextlib import closing

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, Tuple

from mmrlhf_ray.behaviour.env import RecordedEnv
from mmrlhf_ray.behaviour.module import best_action, module_spec
from mmrlhf_ray.behaviour.net import Body, RewardNet
from mmrlhf_ray.behaviour.spaces import check_actions, modalities, named
from mmrlhf_ray.errors import ConfigError
from tests.unit.behaviour_tiny import job

GAME = Box(np.zeros((10, 10, 4), bool), np.ones((10, 10, 4), bool), dtype=np.bool_)
SPACE = Dict({"view": Box(0, 255, (24, 32, 3), np.uint8), "game": GAME, "state": Box(-np.inf, np.inf, (5,))})


def batch(space: Dict, rows: int = 3) -> dict[str, torch.Tensor]:
    space.seed(0)
    seen = [named(space, space.sample()) for _ in range(rows)]
    return {name: torch.from_numpy(np.stack([one[name] for one in seen])) for name in seen[0]}


def test_pictures_and_vectors_become_modalities() -> None:
    space = modalities(SPACE)
    assert {name: (box.shape, box.dtype) for name, box in space.items()} == {
        "view": ((24, 32, 3), np.uint8),
        "game": ((10, 10, 4), np.uint8),
        "state": ((5,), np.float32),
    }
    assert space["game"].high.max() == 1
    several = Tuple((Box(-1, 1, (5, 5)), Dict({"lidar": Box(0, 1, (8, 2)), "lane": Discrete(3)}), MultiBinary(2)))
    assert {name: box.shape for name, box in modalities(several).items()} == {
        "part0": (25,),
        "part1_lane": (3,),
        "part1_lidar": (16,),
        "part2": (2,),
    }
    sample = several.sample()
    found = named(several, sample)
    assert found["part1_lane"].tolist() == np.eye(3)[sample[1]["lane"]].tolist()
    assert all(modalities(several)[name].shape == values.shape for name, values in found.items())
    with pytest.raises(ConfigError, match="observed as Text"):
        modalities(gymnasium.spaces.Text(4))


@pytest.mark.parametrize("space", [Box(-np.inf, np.inf, (2,)), Box(0, 1, (2, 2)), MultiBinary(3), Discrete(3, start=1)])
def test_actions_that_cannot_be_learned_are_refused(space: gymnasium.Space) -> None:
    with pytest.raises(ConfigError, match="expected Discrete, or a Box of one axis"):
        check_actions(space)


def test_every_modality_counts_and_no_row_depends_on_another() -> None:
    space = modalities(SPACE)
    body, seen = Body(space, (16, 8)), batch(space)
    out = body(seen)
    assert out.shape == (3, 8)
    alone = body({name: values[1:2] for name, values in seen.items()})
    assert torch.allclose(alone[0], out[1], atol=1e-5)
    for name, values in seen.items():
        other = {**seen, name: values.flip(0)}
        assert not torch.allclose(body(other)[0], out[0])


def test_inputs_are_scaled_by_what_was_seen() -> None:
    space = modalities(Dict({"state": Box(-np.inf, np.inf, (2,))}))
    body = Body(space, (4,))
    state = torch.tensor([[1e3, 5.0], [2e3, 5.0], [4e3, 5.0]])
    body.scale_inputs({"state": state})
    scaled = (body._numbers({"state": state}) - body.centre) / body.spread
    assert scaled[:, 0].mean() == pytest.approx(0.0, abs=1e-5)
    assert scaled[:, 0].std() == pytest.approx(1.0, abs=1e-5)
    assert scaled[:, 1].abs().max() == pytest.approx(0.0, abs=1e-4)
    assert torch.isfinite(body({"state": torch.tensor([[np.inf, -np.inf]])})).all()


def test_rewards_are_of_the_action_too() -> None:
    space = modalities(SPACE)
    seen = batch(space)
    numbered = RewardNet(space, Discrete(4), (16,))
    assert numbered(seen, torch.tensor([0, 1, 2])).shape == (3,)
    assert numbered(seen, torch.tensor([0, 1, 2]))[0] != numbered(seen, torch.tensor([3, 1, 2]))[0]
    vectors = RewardNet(space, Box(-1, 1, (2,)), (16,))
    far, at_bound = torch.full((3, 2), 7.0), torch.ones(3, 2)
    assert torch.equal(vectors(seen, far), vectors(seen, at_bound))


@pytest.mark.parametrize("name", ["Line-v0", "Pendulum-v1"])
def test_the_best_action_is_the_same_again_and_within_bounds(name: str) -> None:
    cfg = job(environment={"id": f"tests.unit.behaviour_tiny:{name}" if name == "Line-v0" else name})
    with closing(RecordedEnv(cfg)) as env:
        module = module_spec(cfg, env).build()
        observation = env.begin(0)
        first, second = best_action(module, observation), best_action(module, observation)
        assert np.array_equal(first, second)
        env.step(first)


def test_q_values_are_for_numbered_actions() -> None:
    cfg = job(environment={"id": "Pendulum-v1"}, algorithm={"kind": "dqn"})
    with closing(RecordedEnv(cfg)) as env, pytest.raises(ConfigError, match="algorithm.kind=dqn"):
        module_spec(cfg, env)
