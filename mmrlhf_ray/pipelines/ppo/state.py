"""The driver's state between steps, which a checkpoint therefore holds."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmrlhf_ray.algorithms.kl import AdaptiveKL
from mmrlhf_ray.algorithms.statistics import RunningMoments
from mmrlhf_ray.config import PPOConfig
from mmrlhf_ray.rewards.mixture import MixtureState


@dataclass(frozen=True)
class DriverState:
    """All that a step changes besides the weights."""

    cursor: int
    """Prompts taken so far."""
    kl: AdaptiveKL
    mixture: MixtureState
    """Running normalisation of reward components, multipliers of costs."""
    moments: Mapping[str, RunningMoments]
    """Of scores, by what `algorithm.score_normalisation` tells apart."""

    @classmethod
    def start(cls, cfg: PPOConfig) -> "DriverState":
        a = cfg.algorithm
        return cls(0, AdaptiveKL(a.kl_coef, a.kl_target, a.kl_horizon), MixtureState.start(cfg.rewards), {})

    def to_dict(self) -> dict[str, Any]:
        """For checkpoints; JSON."""
        return {
            "cursor": self.cursor,
            "kl": self.kl.to_dict(),
            "mixture": self.mixture.to_dict(),
            "moments": {key: value.to_dict() for key, value in self.moments.items()},
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> "DriverState":
        """The inverse of to_dict()."""
        return cls(
            state["cursor"],
            AdaptiveKL.from_dict(state["kl"]),
            MixtureState.from_dict(state["mixture"]),
            {key: RunningMoments.from_dict(value) for key, value in state["moments"].items()},
        )
