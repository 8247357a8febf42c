"""KL divergence to the reference policy: per-token estimators and the adaptive coefficient."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from mmrlhf_ray.algorithms.aggregation import check_denominator, check_tokens
from mmrlhf_ray.algorithms.statistics import Stats

KLEstimator = Literal["k1", "k2", "k3"]

_ERROR_CLIP = 0.2
_LARGEST_LOG = 20.0


def bounded_exp(x: Tensor) -> Tensor:
    """exp(x) with x cut off at ±20, beyond which it has no gradient.

    float32 overflows at 89, and where a later maximum then takes the other branch, its gradient would be 0 · ∞ = NaN
    although the loss is finite. A ratio of e^20 or e^-20 is outside of any clip range.
    """
    return x.clamp(-_LARGEST_LOG, _LARGEST_LOG).exp()


def _k1(log_ratio: Tensor) -> Tensor:
    return log_ratio


def _k2(log_ratio: Tensor) -> Tensor:
    return 0.5 * log_ratio.square()


def _k3(log_ratio: Tensor) -> Tensor:
    # expm1 keeps the small values that exp(x) - 1 rounds away; on the other side of 0 it cannot overflow.
    kept = log_ratio.clamp(min=-_LARGEST_LOG)
    return torch.expm1(-kept) + kept


_ESTIMATORS: dict[str, Callable[[Tensor], Tensor]] = {"k1": _k1, "k2": _k2, "k3": _k3}


def kl_estimate(logprobs: Tensor, ref_logprobs: Tensor, kind: KLEstimator) -> Tensor:
    """Estimate KL(policy ‖ reference) at each token sampled by the policy; same shape as the inputs, in nats.

    With d = logprobs − ref_logprobs: k1 = d, k2 = d²/2, k3 = exp(−d) − 1 + d, where a d below −20 counts as −20, since
    exp(−d) overflows.
    Source: Schulman, "Approximating KL Divergence" (2020). k1 and k3 are unbiased; k2 and k3 are never negative.
    Positions that are not response tokens come back as whatever they were made of: mask them.
    """
    if logprobs.shape != ref_logprobs.shape:
        raise ValueError(f"ref_logprobs expects shape {list(logprobs.shape)}, got {list(ref_logprobs.shape)}")
    if kind not in _ESTIMATORS:
        raise ValueError(f"kind expects one of {sorted(_ESTIMATORS)}, got {kind!r}")
    return _ESTIMATORS[kind](logprobs - ref_logprobs)


def kl_loss(
    logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor, weights: Tensor, kind: KLEstimator, denominator: float
) -> tuple[Tensor, Stats]:
    """Σ over masked tokens of w·`kl_estimate` / denominator; add kl_coef times it to the loss.

    All tensors [B, T], mask bool; gradient flows to `logprobs` only. `weights` and `denominator` as in `PolicyLoss`.
    Statistics: `kl_loss`, the weighted sum, nats.

    The gradient of an estimate is not the estimate of the gradient. For tokens drawn from the current policy, given
    what precedes them, the expected gradient is: k1: zero, so it only adds noise; k2: that of KL(policy ‖ reference);
    k3: that of KL(reference ‖ policy). Once the policy has left the one that sampled, each is an approximation.
    Source: Tang & Munos 2025, "On a few pitfalls in KL divergence gradient estimation for RL".
    """
    check_tokens(mask, logprobs=logprobs, ref_logprobs=ref_logprobs, weights=weights)
    check_denominator(denominator)
    zeros = torch.zeros_like(logprobs)
    # Masked before the estimate, so that padding can neither overflow nor put NaN into the gradient.
    estimate = kl_estimate(torch.where(mask, logprobs, zeros), torch.where(mask, ref_logprobs.detach(), zeros), kind)
    total = (torch.where(mask, weights.detach().to(zeros.dtype), zeros) * estimate).sum()
    return total / denominator, {"kl_loss": total.detach()}


@dataclass(frozen=True)
class AdaptiveKL:
    """The KL coefficient and the controller that steers it.

    Source: Ziegler et al. 2019, "Fine-Tuning Language Models from Human Preferences", section 2.2:
    e = clip(kl / kl_target − 1, ±0.2); kl_coef ← kl_coef · (1 + e · n / kl_horizon) for n samples.
    Without `kl_target` the coefficient is constant.
    """

    kl_coef: float
    kl_target: float | None = None
    """KL per response, nats."""
    kl_horizon: float = 10_000.0
    """Samples."""

    def update(self, kl: float, n_samples: int) -> "AdaptiveKL":
        """The controller after a step with mean `kl` per response (nats) over `n_samples` responses.

        Raises ValueError when `kl` is not finite: one such step would spoil the coefficient for good.
        """
        if not math.isfinite(kl):
            raise ValueError(f"kl expects a finite number, got {kl}")
        if self.kl_target is None:
            return self
        error = min(max(kl / self.kl_target - 1.0, -_ERROR_CLIP), _ERROR_CLIP)
        # A step larger than the horizon could turn the coefficient negative; it may at most fall by the error.
        share = min(n_samples / self.kl_horizon, 1.0)
        return replace(self, kl_coef=self.kl_coef * (1.0 + error * share))

    def to_dict(self) -> dict[str, float | None]:
        """For checkpoints."""
        return asdict(self)

    @classmethod
    def from_dict(cls, state: Mapping[str, float | None]) -> "AdaptiveKL":
        """The inverse of `to_dict`; raises TypeError on a key it does not know."""
        return cls(**state)  # type: ignore[arg-type]
