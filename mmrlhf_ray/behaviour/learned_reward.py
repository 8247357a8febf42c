"""The learned reward takes the place of the environment's: a piece of RLlib's learner connector pipeline.

It works on episodes before advantages or targets are made of them, for PPO and for DQN alike; what DQN draws from its
replay is given the reward that the models give now.
"""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.core.learner.learner import Learner

from mmrlhf_ray.algorithms.lagrange import lagrangian_score
from mmrlhf_ray.behaviour.reward import RewardEnsemble
from mmrlhf_ray.behaviour.segments import Segment
from mmrlhf_ray.behaviour.spaces import Observation
from mmrlhf_ray.config.behaviour import BehaviourConfig


class LearnedReward(ConnectorV2):
    """Replaces the rewards of episodes, which are costs until then, by (learned − λ·cost) / (1 + λ)."""

    def __init__(self, cfg: BehaviourConfig, space: Any, actions: Any) -> None:
        super().__init__(space, actions)
        self.ensemble = RewardEnsemble(cfg.reward_model, space, actions, cfg.seed)
        self.multiplier = 0.0

    def __call__(self, *, rl_module: Any, batch: Any, episodes: Any, **kwargs: Any) -> Any:
        found = list(self.single_agent_episode_iterator(episodes, agents_that_stepped_only=False))
        lengths = [len(episode) for episode in found]
        seen = [_batched(episode.get_observations(slice(0, n))) for episode, n in zip(found, lengths, strict=True)]
        steps = Segment(
            {name: np.concatenate([o[name] for o in seen]) for name in seen[0]},
            np.concatenate([np.asarray(episode.get_actions(slice(0, n))) for episode, n in zip(found, lengths)]),
        )
        costs = np.concatenate([np.asarray(episode.get_rewards(slice(0, n))) for episode, n in zip(found, lengths)])
        rewards = lagrangian_score(self.ensemble.rewards(steps), costs.astype(np.float32), self.multiplier)
        with warnings.catch_warnings():
            # RLlib checks single numbers against a space, of which Gymnasium warns each time.
            warnings.filterwarnings("ignore", message=".*Casting input x to numpy array")
            for episode, n, own in zip(found, lengths, np.split(rewards, np.cumsum(lengths)[:-1]), strict=True):
                episode.set_rewards(new_data=own, at_indices=slice(0, n))
        return batch


def _batched(observations: Any) -> Observation:
    """[n, …] of each modality; episodes from the replay hold lists."""
    if isinstance(observations, list):
        return {name: np.stack([one[name] for one in observations]) for name in observations[0]}
    return {name: np.asarray(values) for name, values in observations.items()}


def give_reward(algorithm: Algorithm, weights: Mapping[str, Any], multiplier: float) -> None:
    """Have all learners use these weights of the ensemble and this λ from now on."""

    def take(learner: Learner, _: Any = None) -> int:
        pipeline = learner._learner_connector
        assert pipeline is not None
        own = [piece for piece in pipeline.connectors if isinstance(piece, LearnedReward)]
        for piece in own:
            piece.ensemble.load_state_dict(weights)
            piece.multiplier = multiplier
        return len(own)

    assert algorithm.learner_group is not None
    for result in algorithm.learner_group.foreach_learner(take):
        assert result.ok, result.get()
        assert result.get() == 1
