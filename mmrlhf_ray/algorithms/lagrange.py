"""A cost held under a bound: the Lagrange multiplier and the score it makes."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

from numpy.typing import NDArray
from torch import Tensor

T = TypeVar("T", float, Tensor, NDArray[Any])


@dataclass(frozen=True)
class LagrangeMultiplier:
    """λ ≥ 0 of the constraint E[cost] ≤ bound, and how fast it moves.

    Projected gradient ascent on the dual, I ← clip(I + lr · (mean cost − bound), 0, maximum), and on top of it a term
    in the excess itself, λ = clip(I + damping · (mean cost − bound), 0, maximum). Without damping λ and the cost swing
    around each other, since both the policy and I answer late.
    Source: Bertsekas 1999, "Nonlinear Programming", section 6.3 (dual methods); Stooke et al. 2020, "Responsive Safety
    in Reinforcement Learning by PID Lagrangian Methods", algorithm 2 with K_I = lr, K_P = damping, K_D = 0; the use in
    RLHF: Dai et al. 2023, "Safe RLHF", equation 31, where the step is taken on log λ and λ therefore cannot reach 0.
    """

    integral: float
    bound: float
    lr: float
    maximum: float
    damping: float = 0.0
    excess: float = 0.0
    """Mean cost − bound of the step before; 0 before the first."""

    @property
    def value(self) -> float:
        """λ for the next step."""
        return self._within(self.integral + self.damping * self.excess)

    def update(self, mean_cost: float) -> "LagrangeMultiplier":
        """The multiplier after a step whose responses cost `mean_cost` on average.

        Raises ValueError when it is not finite: one such step would spoil the multiplier for good.
        """
        if not math.isfinite(mean_cost):
            raise ValueError(f"mean_cost expects a finite number, got {mean_cost}")
        excess = mean_cost - self.bound
        return replace(self, integral=self._within(self.integral + self.lr * excess), excess=excess)

    def _within(self, value: float) -> float:
        return min(max(value, 0.0), self.maximum)

    def to_dict(self) -> dict[str, float]:
        """For checkpoints."""
        return asdict(self)

    @classmethod
    def from_dict(cls, state: Mapping[str, float]) -> "LagrangeMultiplier":
        """The inverse of `to_dict`; raises TypeError on a key it does not know."""
        return cls(**state)


def lagrangian_score(reward: T, cost: T, multiplier: float) -> T:
    """(reward − λ·cost) / (1 + λ), elementwise; λ = `multiplier` ≥ 0. Dividing keeps the scale as λ grows.

    Several constraints: give Σ λ_k·cost_k / Σ λ_k as the cost and Σ λ_k as the multiplier.
    Source: Dai et al. 2023, "Safe RLHF: Safe Reinforcement Learning from Human Feedback", appendix B.3, which weighs
    the losses of reward and cost so; here the scores, before advantages are made of them.
    Raises ValueError when `multiplier` is negative or not finite.
    """
    if not (multiplier >= 0 and math.isfinite(multiplier)):
        raise ValueError(f"multiplier expects a finite number of at least 0, got {multiplier}")
    return (reward - multiplier * cost) / (1.0 + multiplier)
