"""Log-probabilities that are far apart: every loss, gradient and statistic stays finite, in float32 as well."""

import math

import pytest
import torch

from mmrlhf_ray.algorithms.kl import bounded_exp, kl_estimate, kl_loss
from mmrlhf_ray.algorithms.losses import human_loss
from mmrlhf_ray.algorithms.mismatch import CORRECTIONS, mismatch_stats, mismatch_weights
from mmrlhf_ray.algorithms.policy_loss import POLICY_LOSSES, Clip
from mmrlhf_ray.algorithms.preference_loss import (
    bco_loss,
    dpo_loss,
    ipo_loss,
    kto_loss,
    mpo_loss,
    orpo_loss,
    simpo_loss,
)

# exp() overflows at 88.8 in float32 and at 709.8 in float64.
FAR = [21.0, 88.0, 89.0, 119.0, 710.0, 1e4]
CLIPS = [Clip(0.2, 0.2), Clip(None, 4.0), Clip(0.2, None), Clip(None, None), Clip(0.2, 0.2, 3.0)]
DTYPES = [torch.float32, torch.float64]


def apart(gap: float, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities [6, 2] of two policies, of which either gives the first token e^gap times the other's."""
    low, high, rest = (torch.full((3, 1), x, dtype=dtype) for x in (-gap - 0.5, -0.5, -1.0))
    rest = torch.cat([rest, rest])
    return torch.cat([torch.cat([low, high]), rest], dim=1), torch.cat([torch.cat([high, low]), rest], dim=1)


def assert_finite(loss: torch.Tensor, *leaves: torch.Tensor, stats: dict[str, torch.Tensor]) -> None:
    assert loss.isfinite()
    for leaf, gradient in zip(leaves, torch.autograd.grad(loss, leaves), strict=True):
        assert gradient.isfinite().all(), (leaf, gradient)
    assert all(value.isfinite() for value in stats.values()), stats


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("gap", FAR)
@pytest.mark.parametrize("kind", POLICY_LOSSES)
def test_policy_losses(kind, gap, dtype):
    logprobs, old = apart(gap, dtype)
    mask, ones = torch.ones(6, 2, dtype=torch.bool), torch.ones(6, 2, dtype=dtype)
    for clip in CLIPS:
        if kind == "cispo" and clip.dual is not None:
            continue
        for advantage in (1.0, 0.0, -1.0):
            leaf = logprobs.clone().requires_grad_()
            loss, stats = POLICY_LOSSES[kind](leaf, old, advantage * ones, mask, ones, clip, 12.0)
            assert_finite(loss, leaf, stats=stats)


def test_the_gradient_behind_a_clip_is_zero_not_nan():
    # The clipped branch is taken, -1.2, and the other one's ratio would overflow.
    logprobs = torch.tensor([[-0.1]], requires_grad=True)
    on, one = torch.ones(1, 1, dtype=torch.bool), torch.ones(1, 1)
    loss, _ = POLICY_LOSSES["ppo"](logprobs, torch.tensor([[-100.0]]), one, on, one, Clip(0.2, 0.2), 1.0)
    assert loss.item() == pytest.approx(-1.2)
    assert torch.autograd.grad(loss, logprobs)[0].item() == 0.0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("gap", FAR)
@pytest.mark.parametrize("kind", ["k1", "k2", "k3"])
def test_kl(kind, gap, dtype):
    logprobs, ref = apart(gap, dtype)
    leaf = logprobs.requires_grad_()
    loss, stats = kl_loss(leaf, ref, torch.ones(6, 2, dtype=torch.bool), torch.ones(6, 2, dtype=dtype), kind, 12.0)
    assert_finite(loss, leaf, stats=stats)
    assert kl_estimate(leaf, ref, kind).isfinite().all()


def test_k3_and_ratios_keep_their_values_up_to_twenty():
    d = torch.tensor([-20.0, -5.0, 0.0, 5.0, 60.0], dtype=torch.float64)
    want = [math.exp(-x) - 1 + x for x in d.tolist()]
    torch.testing.assert_close(kl_estimate(d, torch.zeros_like(d), "k3"), torch.tensor(want, dtype=torch.float64))
    torch.testing.assert_close(bounded_exp(d[:-1]), d[:-1].exp())
    assert bounded_exp(torch.tensor([60.0, -60.0])).tolist() == pytest.approx([math.exp(20), math.exp(-20)])
    assert bounded_exp(torch.tensor([math.nan])).isnan().all(), "what is not a number stays one that an engine refuses"


@pytest.mark.parametrize("gap", FAR)
@pytest.mark.parametrize("correction", CORRECTIONS)
def test_mismatch(correction, gap):
    old, rollout = apart(gap, torch.float32)
    mask = torch.ones(6, 2, dtype=torch.bool)
    weights = mismatch_weights(old, rollout, mask, correction, 0.5, 5.0)
    assert weights.isfinite().all()
    flat = (x.flatten() for x in (old, rollout, weights))
    assert all(value.isfinite() for value in mismatch_stats(*flat).values())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("gap", FAR)
def test_preferences(gap, dtype):
    one, ref = (x[:, 0] for x in apart(gap, dtype))
    other, feedback = one.flip(0), torch.tensor([1.0, -1.0] * 3, dtype=dtype)
    a, b = one.clone().requires_grad_(), other.clone().requires_grad_()
    losses = [
        dpo_loss(a, b, ref, ref, 0.5, 6.0, 0.1),
        ipo_loss(a, b, ref, ref, 0.5, 6.0),
        orpo_loss(a, b, 0.5, 6.0),
        simpo_loss(a, b, 0.5, 0.2, 6.0),
        mpo_loss(a, b, ref, ref, a / 3, 0.1, 0.5, (0.8, 0.2, 1.0), 6.0),
    ]
    for loss, stats in losses:
        assert_finite(loss, a, b, stats=stats)
    for loss, stats in (
        kto_loss(a, ref, feedback, 1.0, 0.5, 1.0, 1.0, 6.0),
        bco_loss(a, ref, feedback, 0.1, 0.5, 6.0),
    ):
        assert_finite(loss, a, stats=stats)


@pytest.mark.parametrize("logprob", [0.0, -1e-9, -89.0, -1e4])
def test_votes(logprob):
    leaf = torch.full((2,), logprob).requires_grad_()
    assert_finite(human_loss(leaf, torch.tensor([1.0, -1.0])), leaf, stats={})
