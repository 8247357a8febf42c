"""The driver's state between steps, which a checkpoint therefore holds."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mmrlhf_ray.algorithms.kl import AdaptiveKL
from mmrlhf_ray.algorithms.statistics import RunningMoments
from mmrlhf_ray.config import PPOConfig
from mmrlhf_ray.rewards.mixture import MixtureState
from mmrlhf_ray.rollout.ledger import Consumed
from mmrlhf_ray.rollout.selection import PassRates


@dataclass(frozen=True)
class DriverState:
    """All that a step changes besides the weights."""

    consumed: Consumed
    """The prompts that are used up."""
    kl: AdaptiveKL
    mixture: MixtureState
    """Running normalisation of reward components, multipliers of costs."""
    moments: Mapping[str, RunningMoments]
    """Of scores, by what `algorithm.score_normalisation` tells apart."""
    pass_rates: PassRates = field(default_factory=PassRates)
    """Of the prompts, where `selection` is given."""

    @classmethod
    def start(cls, cfg: PPOConfig) -> "DriverState":
        a = cfg.algorithm
        return cls(Consumed(), AdaptiveKL(a.kl_coef, a.kl_target, a.kl_horizon), MixtureState.start(cfg.rewards), {})

    def to_dict(self) -> dict[str, Any]:
        """For checkpoints; JSON."""
        return {
            "consumed": self.consumed.to_dict(),
            "kl": self.kl.to_dict(),
            "mixture": self.mixture.to_dict(),
            "moments": {key: value.to_dict() for key, value in self.moments.items()},
            "pass_rates": self.pass_rates.to_dict(),
        }

    @classmethod
    def resumed(cls, cfg: PPOConfig, state: Mapping[str, Any], changed: Collection[str]) -> "DriverState":
        """The inverse of to_dict(), under the settings of `cfg`, of which `changed` are others than the state's: a
        coefficient or multiplier goes on from where it was, or starts from the value that it was given anew."""
        fresh = cls.start(cfg)
        kl = fresh.kl
        if kl.kl_target is not None and "algorithm.kl_coef" not in changed:
            kl = replace(kl, kl_coef=AdaptiveKL.from_dict(state["kl"]).kl_coef)
        mixture = MixtureState.from_dict(state["mixture"])
        multipliers = {}
        for name, now in fresh.mixture.multipliers.items():
            was = mixture.multipliers.get(name)
            if was is not None and f"rewards.{name}.cost.initial_multiplier" not in changed:
                excess = was.excess if was.bound == now.bound else was.excess + was.bound - now.bound
                now = replace(now, integral=was.integral, excess=excess)
            multipliers[name] = now
        moments = {key: RunningMoments.from_dict(value) for key, value in state["moments"].items()}
        # Earlier versions drew prompts in turn and wrote down how many.
        consumed = Consumed.from_dict(state["consumed"]) if "consumed" in state else Consumed(state["cursor"])
        rates = PassRates.from_dict(state["pass_rates"]) if "pass_rates" in state else PassRates()
        return cls(consumed, kl, replace(mixture, multipliers=multipliers), moments, rates)
