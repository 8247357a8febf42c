"""KL estimators and the adaptive coefficient."""

import math

import pytest
import torch

from mmrlhf_ray.algorithms import AdaptiveKL, kl, kl_estimate
from tests.golden import reference
from tests.golden.support import assert_caught, batch, close

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
