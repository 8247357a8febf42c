"""A policy and a Q function that are tables, and a job on them: problems small enough for brute force."""

from typing import Any

import gymnasium
import numpy as np
import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.learner import Learner
from ray.rllib.core.rl_module.apis import ValueFunctionAPI
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.core.rl_module.torch import TorchRLModule
from ray.rllib.env.single_agent_episode import SingleAgentEpisode

from mmrlhf_ray.config import DiscreteConfig
from mmrlhf_ray.discrete.algorithms import algorithm_config

STATES, ACTIONS = 3, 4
OBSERVATIONS = gymnasium.spaces.Box(0.0, 1.0, (STATES,), np.float32)
DECISIONS = gymnasium.spaces.Discrete(ACTIONS)


class TablePolicy(TorchRLModule, ValueFunctionAPI):
    """Logits [S, A] and values [S] as parameters; a state is a one-hot observation."""

    def setup(self) -> None:
        generator = torch.Generator().manual_seed(3)
        self.logits = torch.nn.Parameter(torch.randn(STATES, ACTIONS, generator=generator))
        self.values = torch.nn.Parameter(torch.randn(STATES, generator=generator))

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return {Columns.ACTION_DIST_INPUTS: batch[Columns.OBS] @ self.logits}

    def compute_values(self, batch: dict[str, Any], embeddings: Any = None) -> torch.Tensor:
        return batch[Columns.OBS] @ self.values


def job(algorithm: dict[str, Any], **keys: Any) -> DiscreteConfig:
    """A configuration with this algorithm. Its task is never read."""
    data = {"path": "nowhere"}
    return DiscreteConfig.model_validate(
        {
            "name": "golden",
            "tasks": {"digit": {"kind": "decide", "train": data, "heldout": data, "classes": list("0123")}},
            "observation": {"modalities": {"image": {"kind": "image"}}},
            "algorithm": algorithm,
            **keys,
        }
    )


def learner(algorithm: dict[str, Any], **keys: Any) -> Learner:
    """RLlib's learner as the job would start it, on the tables above."""
    module = RLModuleSpec(
        module_class=TablePolicy, observation_space=OBSERVATIONS, action_space=DECISIONS, model_config={}
    )
    return algorithm_config(job(algorithm, **keys), "unused", {}, module).build_learner(
        spaces={"default_policy": (OBSERVATIONS, DECISIONS)}
    )


def one_hot(states: list[int]) -> np.ndarray:
    return np.eye(STATES, dtype=np.float32)[states]


def episode(states: list[int], actions: list[int], rewards: list[float], logits: np.ndarray) -> SingleAgentEpisode:
    """One that ended: len(states) = len(actions) + 1, the last state is the one it ended in."""
    recorded = SingleAgentEpisode(observation_space=OBSERVATIONS, action_space=DECISIONS)
    recorded.add_env_reset(one_hot(states)[0])
    for step, (action, reward) in enumerate(zip(actions, rewards, strict=True)):
        row = logits[states[step]]
        recorded.add_env_step(
            one_hot(states)[step + 1],
            action,
            reward,
            terminated=step == len(actions) - 1,
            extra_model_outputs={
                Columns.ACTION_DIST_INPUTS: row,
                Columns.ACTION_LOGP: np.float32(row[action] - np.log(np.exp(row).sum())),
            },
        )
    return recorded.to_numpy()
