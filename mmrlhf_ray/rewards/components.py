"""Components that score a batch, by the kind of reward."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from mmrlhf_ray.config.rewards import FunctionReward, JudgeReward, RemoteReward
from mmrlhf_ray.rewards.batch import RewardBatch
from mmrlhf_ray.rewards.judge import JudgeScores
from mmrlhf_ray.rewards.mixture import routed
from mmrlhf_ray.rewards.remote import RemoteScores
from mmrlhf_ray.rewards.scores import ComponentScores
from mmrlhf_ray.rewards.user import FunctionProcess

TextReward = FunctionReward | RemoteReward | JudgeReward
"""Rewards that are computed from text; the others need a model."""


class Component(Protocol):
    """Scores batches. start() comes first; each component is used by one thread at a time."""

    def start(self) -> Any:
        """Raises ConfigError when the component cannot work here."""

    def score(self, batch: RewardBatch) -> ComponentScores:
        """One entry per row, after the component's `deadline_s` at most. Does not raise for what may fail outside."""

    def close(self) -> None:
        """Leave nothing behind."""


_KINDS: Mapping[type, Callable[[Any], Component]] = {
    FunctionReward: FunctionProcess,
    RemoteReward: RemoteScores,
    JudgeReward: JudgeScores,
}


def shows_media(reward: TextReward) -> bool:
    """Whether its component is shown media."""
    return isinstance(reward, JudgeReward) and bool(reward.media)


def component(reward: TextReward) -> Component:
    """The component of a reward; nothing is started."""
    return _KINDS[type(reward)](reward)


def score_own(reward: TextReward, own: Component, batch: RewardBatch) -> ComponentScores:
    """One entry per row of the batch, from the started component of `reward`; it is given the rows that are its own."""
    rows = routed(reward, batch.rows)
    scores = own.score(batch.select(rows)) if rows else ComponentScores((), ())
    return scores.scatter(rows, len(batch))
