"""KL estimators and the adaptive coefficient."""

import math

import pytest
import torch

from mmrlhf_ray.algorithms import kl
from mmrlhf_ray.algorithms.kl import AdaptiveKL, kl_estimate, kl_loss
from tests.golden import reference
from tests.golden.support import assert_caught, batch, close, mutant

KINDS = ("k1", "k2", "k3")


def check_kl(function):
    b = batch()
    for kind in KINDS:
        want = reference.kl(b.logprobs.tolist(), b.old_logprobs.tolist(), kind)
        close(function(b.logprobs, b.old_logprobs, kind), want)


def test_estimators_match_the_reference():
    check_kl(kl_estimate)


@pytest.mark.parametrize(
    ("kind", "broken"),
    [
        ("k1", lambda d: -d),
        ("k2", lambda d: d.square()),
        ("k3", lambda d: torch.expm1(d) - d),
        ("k3", lambda d: torch.expm1(-d) - d),
    ],
)
def test_broken_estimators_are_caught(monkeypatch, kind, broken):
    monkeypatch.setitem(kl._ESTIMATORS, kind, broken)
    assert_caught(check_kl, kl_estimate)


def test_exchanging_policy_and_reference_is_caught():
    assert_caught(check_kl, lambda p, q, kind: kl_estimate(q, p, kind))


def test_estimators_by_hand():
    # p = 0.8 against q = 0.4: d = ln 2, q/p = 1/2.
    p, q = torch.tensor([math.log(0.8)]), torch.tensor([math.log(0.4)])
    assert kl_estimate(p, q, "k1").item() == pytest.approx(math.log(2))
    assert kl_estimate(p, q, "k2").item() == pytest.approx(math.log(2) ** 2 / 2)
    assert kl_estimate(p, q, "k3").item() == pytest.approx(0.5 - 1 + math.log(2))


def test_expectations_under_the_policy():
    # Exact sums over a distribution: k1 and k3 are unbiased.
    p = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    q = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    true_kl = (p * (p.log() - q.log())).sum()
    for kind in ("k1", "k3"):
        close((p * kl_estimate(p.log(), q.log(), kind)).sum(), true_kl)


def check_kl_loss(function):
    for seed, kind in enumerate(KINDS):
        b = batch(seed)
        ref, weights = b.old_logprobs + 0.2 * b.returns, b.values.abs()
        logprobs = b.logprobs.clone().requires_grad_()
        loss, stats = function(logprobs, ref, b.mask, weights, kind, 50.0)
        assert loss.requires_grad
        loss.backward()
        estimate = reference.kl(b.logprobs.tolist(), ref.tolist(), kind)
        want = reference.weighted_mean(estimate, b.mask.tolist(), weights.tolist(), 50.0)
        close(loss.detach(), want)
        close(stats["kl_loss"], want * 50.0)
        d = b.logprobs - ref
        slope = {"k1": torch.ones_like(d), "k2": d, "k3": 1 - ref.exp() / b.logprobs.exp()}[kind]
        close(logprobs.grad, torch.where(b.mask, weights * slope / 50.0, 0.0))


def test_kl_loss_matches_the_reference():
    check_kl_loss(kl_loss)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("total / denominator", "-total / denominator"),
        ("total / denominator", "total / mask.sum()"),
        ("torch.where(mask, logprobs, zeros)", "torch.where(mask, logprobs.flip(0), zeros)"),
        ("torch.where(mask, logprobs, zeros)", "torch.where(mask.roll(1, 1), logprobs, zeros)"),
        ("torch.where(mask, logprobs, zeros)", "torch.where(mask, logprobs, zeros).detach()"),
        ("ref_logprobs.detach()", "ref_logprobs.roll(1, 1)"),
        ("torch.where(mask, weights", "torch.where(mask.roll(1, 1), weights"),
        ("weights.detach()", "weights.flip(0)"),
        ("weights.detach()", "mask"),
    ],
)
def test_a_broken_kl_loss_is_caught(old, new):
    assert_caught(check_kl_loss, mutant(kl_loss, old, new))


def test_kl_loss_by_hand():
    # p = 0.8 against q = 0.4 at two tokens of weight 1 and 3.
    p, q = torch.full((1, 2), math.log(0.8)), torch.full((1, 2), math.log(0.4))
    loss, _ = kl_loss(p, q, torch.ones(1, 2, dtype=torch.bool), torch.tensor([[1.0, 3.0]]), "k1", 2.0)
    assert loss.item() == pytest.approx(4 * math.log(2) / 2)


@pytest.mark.parametrize(
    ("kind", "true"),
    [
        ("k1", lambda p, q: 0 * p.sum()),
        ("k2", lambda p, q: (p.exp() * (p - q)).sum()),
        ("k3", lambda p, q: (q.exp() * (q - p)).sum()),
    ],
)
def test_expected_gradients_are_as_documented(kind, true):
    # Exactly, over a distribution of five tokens: each token once, weighted with its probability.
    generator = torch.Generator().manual_seed(0)
    logits, other = torch.randn(2, 5, generator=generator, dtype=torch.float64)
    logits.requires_grad_()
    p, q = logits.log_softmax(0), other.log_softmax(0)
    mask = torch.ones(1, 5, dtype=torch.bool)
    loss, _ = kl_loss(p[None], q[None], mask, p.detach().exp()[None], kind, 1.0)
    (got,) = torch.autograd.grad(loss, logits, retain_graph=True)
    (want,) = torch.autograd.grad(true(p, q), logits)
    close(got, want)
    assert got.abs().max() > 0.01 or kind == "k1"


def test_adaptive_coefficient_by_hand():
    start = AdaptiveKL(kl_coef=0.1, kl_target=6.0, kl_horizon=100.0)
    # 6.6 / 6 - 1 = 0.1 within the clip; 10 of 100 samples: 1 + 0.1 * 0.1.
    assert start.update(6.6, 10).kl_coef == pytest.approx(0.1 * 1.01)
    assert start.update(5.4, 10).kl_coef == pytest.approx(0.1 * 0.99)
    # Clipped at +-0.2.
    assert start.update(60.0, 10).kl_coef == pytest.approx(0.1 * 1.02)
    assert start.update(-60.0, 10).kl_coef == pytest.approx(0.1 * 0.98)
    assert start.update(6.0, 10) == start


def test_adaptive_coefficient_steers_to_the_target():
    # A policy whose KL falls as the coefficient rises, KL = 1 / coef, settles at the target.
    state = AdaptiveKL(kl_coef=0.05, kl_target=4.0, kl_horizon=200.0)
    for _ in range(500):
        state = state.update(1.0 / state.kl_coef, 64)
    assert 1.0 / state.kl_coef == pytest.approx(4.0, rel=1e-3)
